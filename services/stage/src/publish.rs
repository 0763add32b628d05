//! The one writer. Every durable publish of hotcell is made here: signed, with a message id, with
//! the compare-and-set headers where a job's history is concerned, and acknowledged.

use crate::{bus::Bus, clock, telemetry};
use async_nats::{
    HeaderMap,
    jetstream::context::{PublishError as JsError, PublishErrorKind},
};
use hotcell_schemas::{
    EventKind, Job, Subject, TenantId,
    envelope::{Envelope, Message, SealError},
    hook::{Delivery, TestDelivery},
    records::{AuditAct, AuditRecord},
    routes::{Carrier, StreamId},
    subject::AuditKind,
};
use std::time::Duration;

/// A publish is given up after this long without an acknowledgement, in seconds; the caller's
/// message is then delivered again, and the message id makes the repeat harmless.
const ACK_SECS: u64 = 5;

/// What must be true of the stream for the publish to count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// Nothing: the record stands alone.
    Nothing,
    /// The last message under this filter has this sequence; 0 means there is none.
    Last {
        /// The filter.
        filter: String,
        /// The sequence.
        seq: u64,
    },
}

/// A message that a stage wants published.
#[derive(Debug, Clone)]
pub enum Outgoing {
    /// A job's next event. Its state says which; `after` is the sequence that it must follow.
    Job {
        /// The snapshot, already moved.
        job: Box<Job>,
        /// Sequence of the job's last event that the stage saw; 0 for the first.
        after: u64,
        /// Distinguishes rivals of the same event and attempt; empty where rivals are repeats.
        nonce: String,
    },
    /// A record for the audit log.
    Audit {
        /// The record.
        record: Box<AuditRecord>,
        /// Message id: the same act must give the same id.
        id: String,
    },
    /// A delivery to be made.
    Hook {
        /// Whose.
        tenant: TenantId,
        /// The delivery.
        delivery: Box<Delivery>,
        /// Which of its rounds: 0 for the first, then its replays. A repeat within a round is
        /// dropped by the broker.
        round: u32,
    },
    /// A delivery that tells of nothing.
    HookTest {
        /// The delivery.
        delivery: Box<TestDelivery>,
    },
}

impl Outgoing {
    /// A job's next event.
    #[must_use]
    pub fn job(job: Job, after: u64) -> Self {
        Self::Job { job: Box::new(job), after, nonce: String::new() }
    }

    /// A record for the audit log, now.
    #[must_use]
    pub fn audit(tenant: Option<&TenantId>, act: AuditAct, id: String) -> Self {
        let record = AuditRecord { at: clock::now(), tenant: tenant.cloned(), act };
        Self::Audit { record: Box::new(record), id }
    }
}

/// A publish that the broker acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Its sequence in the stream.
    pub seq: u64,
    /// The broker already had a message of this id; `seq` is that one's.
    pub duplicate: bool,
}

/// Why a publish does not count.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The history moved on: another process made the transition, or the job ended.
    #[error("the job's history moved on")]
    Conflict,
    /// The broker did not acknowledge; it may or may not have stored the message.
    #[error("the broker did not acknowledge the message")]
    Unacknowledged(#[source] JsError),
    /// The message cannot be signed.
    #[error("the message cannot be sealed")]
    Seal(#[source] SealError),
    /// The table has no such transition or no such subject: a bug, refused before it is sent.
    #[error("the route table does not allow this publish")]
    NotRouted,
}

fn audit_kind(act: &AuditAct) -> AuditKind {
    match act {
        AuditAct::Granted { .. } => AuditKind::Grant,
        AuditAct::Refused { .. } => AuditKind::Refused,
        AuditAct::Confirmed { .. } => AuditKind::Upload,
        AuditAct::EndpointCreated { .. }
        | AuditAct::EndpointDisabled { .. }
        | AuditAct::Delivered { .. } => AuditKind::Webhook,
        AuditAct::Admin { .. } => AuditKind::Admin,
        AuditAct::Reaped { .. } => AuditKind::Reaped,
        AuditAct::Violation { .. } => AuditKind::Violation,
        AuditAct::Decision { .. } | AuditAct::SteppedUp { .. } | AuditAct::Blocked { .. } => {
            AuditKind::Decision
        }
        AuditAct::Changed { .. } => AuditKind::Change,
    }
}

fn job_subject(job: &Job) -> Option<Subject> {
    if job.state == EventKind::Validated {
        return Some(Subject::ready(&job.tenant, &job.id, &job.pool, job.request.priority));
    }
    Subject::job(&job.tenant, &job.id, job.state)
}

/// Whether the job's last step is one of the life of a job. That it follows the step before is the
/// compare-and-set's to say.
fn may_follow(job: &Job, after: u64) -> bool {
    match job.stamps.as_slice() {
        [] => false,
        [first] => {
            (first.event, job.state) == (EventKind::Submitted, EventKind::Submitted) && after == 0
        }
        [.., before, last] => last.event == job.state && before.event.may_become(last.event),
    }
}

impl Bus {
    /// Publishes `out` and waits for the acknowledgement.
    ///
    /// # Errors
    /// [`PublishError`]. After `Unacknowledged` the same call may be made again.
    pub async fn publish(&self, out: &Outgoing) -> Result<Published, PublishError> {
        match out {
            Outgoing::Job { job, after, nonce } => {
                let subject = job_subject(job).ok_or(PublishError::NotRouted)?;
                if !may_follow(job, *after) {
                    return Err(PublishError::NotRouted);
                }
                let dot = if nonce.is_empty() { "" } else { "." };
                let id = format!("{}.{}.{}{dot}{nonce}", job.id, job.state, job.attempt());
                let filter = Subject::job_filter(&job.tenant, &job.id);
                self.write(subject, id, job.as_ref(), Expect::Last { filter, seq: *after }).await
            }
            Outgoing::Audit { record, id } => {
                let subject = Subject::audit(record.tenant.as_ref(), audit_kind(&record.act));
                self.write(subject, id.clone(), record.as_ref(), Expect::Nothing).await
            }
            Outgoing::Hook { tenant, delivery, round } => {
                let subject = Subject::hook_out(tenant, &delivery.endpoint, &delivery.id);
                let id = match round {
                    0 => delivery.id.to_string(),
                    round => format!("{}.{round}", delivery.id),
                };
                self.write(subject, id, delivery.as_ref(), Expect::Nothing).await
            }
            Outgoing::HookTest { delivery } => {
                let TestDelivery { id, tenant, endpoint, at: _ } = delivery.as_ref();
                let subject = Subject::hook_out(tenant, endpoint, id);
                self.write(subject, id.to_string(), delivery.as_ref(), Expect::Nothing).await
            }
        }
    }

    /// Seals `body` and writes it to the stream of its route.
    async fn write<T: Message>(
        &self,
        subject: Subject,
        msg_id: String,
        body: &T,
        expect: Expect,
    ) -> Result<Published, PublishError> {
        let Carrier::Stream(stream) = subject.route().carrier else {
            return Err(PublishError::NotRouted);
        };
        if !subject.may_publish(self.role()) {
            return Err(PublishError::NotRouted);
        }
        let envelope = Envelope::seal(subject, msg_id, clock::now(), &self.key, body)
            .map_err(PublishError::Seal)?;
        let mut headers = headers_of(&envelope);
        headers.insert("Nats-Expected-Stream", stream.as_str());
        if let Expect::Last { filter, seq } = expect {
            headers.insert("Nats-Expected-Last-Subject-Sequence", seq.to_string().as_str());
            headers.insert("Nats-Expected-Last-Subject-Sequence-Subject", filter.as_str());
        }
        let subject = envelope.subject.to_string();
        let sent = self.jetstream.publish_with_headers(subject, headers, envelope.body.into());
        let acked = async { sent.await?.await };
        match tokio::time::timeout(Duration::from_secs(ACK_SECS), acked).await {
            Ok(Ok(ack)) => Ok(Published { seq: ack.sequence, duplicate: ack.duplicate }),
            Ok(Err(error)) if error.kind() == PublishErrorKind::WrongLastSequence => {
                Err(PublishError::Conflict)
            }
            Ok(Err(error)) => Err(PublishError::Unacknowledged(error)),
            Err(_) => Err(PublishError::Unacknowledged(JsError::new(PublishErrorKind::TimedOut))),
        }
    }

    /// Publishes a tenant's own event to its account: not stored, not acknowledged, a courtesy.
    /// What the table has not as such an event is not sent.
    pub async fn notify(&self, subject: &Subject, json: Vec<u8>) {
        if subject.route().carrier != Carrier::TenantEvents || !subject.may_publish(self.role()) {
            tracing::error!(%subject, "no event of a tenant's account");
            return;
        }
        #[expect(clippy::disallowed_methods, reason = "the one flow that is not stored")]
        if let Err(error) = self.client.publish(subject.to_string(), json.into()).await {
            tracing::debug!(%error, "tenant event not sent");
        }
    }
}

/// The envelope's headers with the current trace.
pub(crate) fn headers_of(envelope: &Envelope) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in envelope.headers() {
        headers.insert(name, value.as_str());
    }
    telemetry::inject(&mut headers);
    headers
}

/// The envelope in a message as it arrived, form checked only.
///
/// # Errors
/// As [`Envelope::received`].
pub fn envelope_of(
    subject: &str,
    headers: Option<&HeaderMap>,
    body: &[u8],
) -> Result<Envelope, hotcell_schemas::envelope::OpenError> {
    let header = |name: &'static str| headers.and_then(|map| map.get(name)).map(|v| v.as_str());
    Envelope::received(subject, header, body)
}

/// The stream that holds job events.
pub(crate) const JOBS: StreamId = StreamId::Jobs;

#[cfg(test)]
mod tests {
    use super::*;
    use hotcell_schemas::{JobId, UnixMs};

    #[test]
    fn only_steps_of_a_job_s_life_are_published() {
        let first = hotcell_nats_config::testing::job("acme", JobId::new(1, [1; 10]));
        let check = |events: &[EventKind], after, expect| {
            let moved = |job: Job, event: &EventKind| job.moved(*event, UnixMs(1));
            let job = events.iter().fold(first.clone(), moved);
            assert_eq!(may_follow(&job, after), expect, "{events:?} {after}");
        };
        use EventKind as E;
        check(&[], 0, false);
        check(&[E::Submitted], 0, true);
        check(&[E::Submitted], 7, false);
        check(&[E::Completed], 0, false);
        check(&[E::Submitted, E::Validated], 7, true);
        check(&[E::Submitted, E::Encoded], 7, false);
        check(&[E::Submitted, E::Cancelled, E::Assigned], 7, false);
        let lied = Job { state: E::Completed, ..first.clone().moved(E::Submitted, UnixMs(1)) };
        assert!(!may_follow(&lied, 0));
    }
}

//! What every verb of a worker checks first: who speaks, and whether its lease is still the job's.

use crate::{
    Signer,
    queue::{Settle, settle},
};
use hotcell_schemas::{
    EventKind, Job, Role, WorkerId,
    envelope::{Message, Verified},
    lease::{Lease, LeaseError},
    records::{AuditAct, Refusal},
    work::Stop,
};
use hotcell_stage::{Incoming, Outgoing, clock, request::RequestInfo};
use std::sync::PoisonError;
use tracing::warn;

/// A worker that the broker vouches for, with what it said.
pub(crate) struct Spoken<T> {
    pub(crate) message: Verified<T>,
    pub(crate) worker: WorkerId,
    pub(crate) info: RequestInfo,
}

/// A lease that is still good, with the job it is for.
pub(crate) struct Held {
    pub(crate) lease: Lease,
    pub(crate) job: Job,
    pub(crate) seq: u64,
}

/// Why there is no lease to serve.
pub(crate) enum NotHeld {
    /// The worker is told.
    Stop(Stop),
    /// The job cannot be read now, or the log cannot be written. The worker is told nothing and asks
    /// again: an attempt is not lost to a broker that restarts.
    Unread,
}

impl From<Stop> for NotHeld {
    fn from(reason: Stop) -> Self {
        Self::Stop(reason)
    }
}

impl Signer {
    /// Checks that the worker in the subject is the one that the broker states, and that its own
    /// key signed the message. What fails is recorded and gets no answer.
    pub(crate) async fn spoken<T: Message>(&self, incoming: &Incoming) -> Option<Spoken<T>> {
        let checked = (|| {
            let info = incoming.info().ok_or("the broker states no sender")?;
            let envelope = incoming.envelope().map_err(|_| "the envelope is malformed")?;
            let worker = envelope.subject.worker().ok_or("the subject names no worker")?;
            if info.name_tag != worker.as_str() {
                return Err("the subject names another worker than the login");
            }
            let message = incoming
                .open_as::<T>(Role::Encoder, &info.user)
                .map_err(|_| "the message is not signed by the login's key, or is stale")?;
            Ok(Spoken { message, worker, info })
        })();
        match checked {
            Ok(spoken) => Some(spoken),
            Err(reason) => {
                self.refused(Refusal::Worker, incoming.subject(), reason).await;
                None
            }
        }
    }

    /// The job of a lease, when the lease is this worker's, is alive, and is the job's last attempt.
    pub(crate) async fn held(&self, token: &str, worker: &WorkerId) -> Result<Held, NotHeld> {
        let lease = match Lease::check(token, &self.lease_key, worker, clock::now()) {
            Ok(lease) => lease,
            Err(LeaseError::Lapsed) => return Err(Stop::LeaseLost.into()),
            Err(error @ (LeaseError::Forged | LeaseError::OtherWorker)) => {
                self.refused(Refusal::Lease, worker.as_str(), &error.to_string()).await;
                return Err(Stop::BadLease.into());
            }
        };
        let stored = match self.bus.job(&lease.tenant, &lease.job).await {
            Ok(Some(stored)) => stored,
            Ok(None) => return Err(Stop::LeaseLost.into()),
            Err(error) => {
                warn!(%error, "job not read for a lease; the worker will ask again");
                return Err(NotHeld::Unread);
            }
        };
        let seq = stored.seq;
        let job = stored.message.into_inner();
        if job.state == EventKind::Cancelled {
            // Frees the tenant's place under its cap; the worker hears it in the same answer.
            settle(&self.bus, Some(&lease.ack), Settle::Done).await;
            return Err(Stop::Cancelled.into());
        }
        if job.state != EventKind::Assigned || seq != lease.assigned_seq {
            return Err(Stop::LeaseLost.into());
        }
        Ok(Held { lease, job, seq })
    }

    /// Records what was not believed, or counts it in a flood. The caller refuses whether or not the
    /// record was taken.
    pub(crate) async fn refused(&self, what: Refusal, subject: &str, reason: &str) {
        let room = self.meter.lock().unwrap_or_else(PoisonError::into_inner).take(clock::now());
        let Some(missed) = room else { return };
        warn!(subject, reason, missed, "refused");
        let reason = match missed {
            0 => reason.to_owned(),
            missed => format!("{reason}; {missed} refusals before it were not recorded"),
        };
        let act = AuditAct::Refused {
            by: Role::Signer,
            what,
            subject: subject.chars().take(200).collect(),
            reason,
        };
        let id = format!("refused.{}", hex::encode(clock::random::<16>()));
        if let Err(error) = self.bus.publish(&Outgoing::audit(None, act, id)).await {
            warn!(%error, "refusal not recorded");
        }
    }
}

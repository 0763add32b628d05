//! The verbs of a lease: `inputs`, `beat`, `urls`, `done`.

use crate::{
    Signer,
    leases::{Held, NotHeld, Spoken},
    mint::{Granted, Mint, ReadFor},
    queue::{Settle, settle},
    transitions,
};
use hotcell_policy::recheck::Refused;
use hotcell_schemas::{
    BlobKey, Digest, EventKind, Role, UnixMs,
    job::{Grant, ReportSeal},
    lease::Lease,
    limits::{ATTEMPT_RETRY_MS, LEASE_SECS, STDERR_BYTES_MAX},
    records::{AuditAct, Refusal},
    subject::LeaseVerb,
    work::{
        BeatReply, BeatRequest, DoneReply, DoneRequest, InputsReply, LeaseRequest, OrderInput,
        PutUrl, Stop, UrlsReply, UrlsRequest,
    },
};
use hotcell_stage::{Incoming, Outgoing, PublishError, clock, service::describe};
use std::sync::Arc;
use tracing::{info, warn};

/// The rows of the route table that this file serves.
pub(crate) const VERBS: [(&str, LeaseVerb); 4] = [
    ("lease.inputs", LeaseVerb::Inputs),
    ("lease.beat", LeaseVerb::Beat),
    ("lease.urls", LeaseVerb::Urls),
    ("lease.done", LeaseVerb::Done),
];

/// MIME type of the compressed stderr (RFC 8878 §7.1).
const ZSTD: &str = "application/zstd";

pub(crate) async fn handle(signer: Arc<Signer>, verb: LeaseVerb, incoming: Incoming) {
    match verb {
        LeaseVerb::Inputs => {
            let Some(spoken) = signer.spoken::<LeaseRequest>(&incoming).await else { return };
            let reply = match signer.inputs(&spoken).await {
                Ok(reply) => reply,
                Err(NotHeld::Stop(reason)) => InputsReply::Refused { reason },
                Err(NotHeld::Unread) => return,
            };
            incoming.answer(&reply).await;
        }
        LeaseVerb::Beat => {
            let Some(spoken) = signer.spoken::<BeatRequest>(&incoming).await else { return };
            let reply = match signer.beat(&spoken).await {
                Ok(reply) => reply,
                Err(NotHeld::Stop(reason)) => BeatReply::Stop { reason },
                Err(NotHeld::Unread) => return,
            };
            incoming.answer(&reply).await;
        }
        LeaseVerb::Urls => {
            let Some(spoken) = signer.spoken::<UrlsRequest>(&incoming).await else { return };
            let reply = match signer.urls(&spoken).await {
                Ok(reply) => reply,
                Err(NotHeld::Stop(reason)) => UrlsReply::Refused { reason },
                Err(NotHeld::Unread) => return,
            };
            incoming.answer(&reply).await;
        }
        LeaseVerb::Done => {
            let Some(spoken) = signer.spoken::<DoneRequest>(&incoming).await else { return };
            // No answer when the broker did not acknowledge: the worker asks again.
            let Some(reply) = signer.done(&spoken, &incoming).await else { return };
            incoming.answer(&reply).await;
        }
    }
}

impl Signer {
    async fn inputs(&self, spoken: &Spoken<LeaseRequest>) -> Result<InputsReply, NotHeld> {
        let held = self.held(&spoken.message.get().lease, &spoken.worker).await?;
        let now = clock::now();
        let mut inputs = Vec::with_capacity(held.job.inputs.len());
        let mut grants = Vec::with_capacity(held.job.inputs.len());
        for input in &held.job.inputs {
            let granted = self.mint.get(&input.key, ReadFor::Worker, now);
            let granted = granted.map_err(|_| Stop::NotPlanned)?;
            grants.push(granted.grant);
            inputs.push(OrderInput { get: granted.url, size: input.size, sha256: input.sha256 });
        }
        self.grant(&held, grants).await?;
        Ok(InputsReply::Inputs { inputs })
    }

    async fn beat(&self, spoken: &Spoken<BeatRequest>) -> Result<BeatReply, NotHeld> {
        let held = self.held(&spoken.message.get().lease, &spoken.worker).await?;
        settle(&self.bus, Some(&held.lease.ack), Settle::InProgress).await;
        let until = clock::now().plus_ms(u64::from(LEASE_SECS) * 1000);
        let lease = Lease { until, ..held.lease };
        Ok(BeatReply::GoOn { lease: lease.token(&self.lease_key), lease_until: until })
    }

    async fn urls(&self, spoken: &Spoken<UrlsRequest>) -> Result<UrlsReply, NotHeld> {
        let request = spoken.message.get();
        let held = self.held(&request.lease, &spoken.worker).await?;
        let (now, job, attempt) = (clock::now(), &held.job, held.lease.attempt);
        if !request.files.is_empty() && !transitions::is_planned(job, &request.files) {
            return Err(Stop::NotPlanned.into());
        }
        let mut outputs = Arc::clone(&self.mint);
        if !request.files.is_empty() {
            outputs = match self.place(&held).await.ok_or(NotHeld::Unread)? {
                Ok(outputs) => outputs,
                Err(refused) => return Err(self.forbid(held, refused).await),
            };
        }
        let mut grants = Vec::new();
        let mut put = |mint: &Mint, key: &BlobKey, size: u64, kind: &str, digest: Digest| {
            let Granted { url, grant } =
                mint.put(key, size, kind, Some(digest), now).map_err(|_| Stop::NotPlanned)?;
            grants.push(grant);
            Ok::<_, Stop>(url)
        };
        let mut files = Vec::with_capacity(request.files.len());
        for file in &request.files {
            let key = BlobKey::output(&job.tenant, &job.id, attempt, &file.name);
            let put = put(&outputs, &key, file.size, &file.content_type, file.sha256)?;
            files.push(PutUrl { name: file.name.clone(), put });
        }
        let stderr = match request.stderr {
            Some((size, _)) if size == 0 || size > STDERR_BYTES_MAX => {
                return Err(Stop::NotPlanned.into());
            }
            Some((size, digest)) => {
                let key = BlobKey::stderr(&job.tenant, &job.id, attempt);
                Some(put(&self.mint, &key, size, ZSTD, digest)?)
            }
            None => None,
        };
        self.grant(&held, grants).await?;
        Ok(UrlsReply::Urls { files, stderr, elsewhere: outputs.is_elsewhere() })
    }

    /// Ends a job whose outputs policy does not permit to be stored. The worker stops; should the end
    /// not be published now, it asks again.
    async fn forbid(&self, held: Held, refused: Refused) -> NotHeld {
        let (id, code) = (held.job.id.clone(), refused.failure.code);
        let next = transitions::forbidden(held.job, refused, clock::now());
        match self.bus.publish(&Outgoing::job(next, held.seq)).await {
            Ok(_) | Err(PublishError::Conflict) => {
                info!(job = %id, %code, "outputs not permitted");
                settle(&self.bus, Some(&held.lease.ack), Settle::Done).await;
                NotHeld::Stop(Stop::Cancelled)
            }
            Err(error) => {
                warn!(%error, job = %id, "job not failed; the worker will ask again");
                NotHeld::Unread
            }
        }
    }

    async fn done(&self, spoken: &Spoken<DoneRequest>, incoming: &Incoming) -> Option<DoneReply> {
        let request = spoken.message.get();
        let held = match self.held(&request.lease, &spoken.worker).await {
            Ok(held) => held,
            Err(NotHeld::Stop(reason)) => return self.done_before(spoken, reason).await,
            Err(NotHeld::Unread) => return None,
        };
        if held.job.id != request.job || held.lease.attempt != request.attempt {
            self.refused(Refusal::Lease, incoming.subject(), "the report is of another job").await;
            return Some(DoneReply::Refused { reason: Stop::BadLease });
        }
        let (now, seal) = (clock::now(), seal(incoming)?);
        let charged = self.charge(&held.job, &spoken.worker, &request.report, now).await;
        let charged = charged.inspect_err(|error| {
            let error = describe(error);
            warn!(error, job = %request.job, "report not counted; the worker will repeat it");
        });
        let quarantined = charged.ok()?;
        let permitted = self.may_store(&held, request.report.output.as_ref()).await?;
        let next = transitions::reported(held.job, request.report.clone(), seal, quarantined, now);
        let next = match permitted {
            _ if next.state != EventKind::Encoded => next,
            Ok(decided) => transitions::decided(next, decided),
            Err(refused) => transitions::withdrawn(next, refused, now),
        };
        let (id, state) = (next.id.clone(), next.state);
        match self.bus.publish(&Outgoing::job(next, held.seq)).await {
            Ok(published) if !published.duplicate => {
                let again = state == EventKind::AttemptFailed;
                let how = if again { Settle::RetryMs(ATTEMPT_RETRY_MS) } else { Settle::Done };
                settle(&self.bus, Some(&held.lease.ack), how).await;
                info!(job = %id, %state, worker = %spoken.worker, "reported");
                Some(DoneReply::Accepted)
            }
            // A rival was quicker. If it brought this very report, that is as good.
            Ok(_) | Err(PublishError::Conflict) => self.done_before(spoken, Stop::LeaseLost).await,
            Err(error) => {
                warn!(%error, job = %id, "report not published; the worker will repeat it");
                None
            }
        }
    }

    /// A report repeated because its answer was lost is accepted again; any other is refused. No
    /// answer when the job cannot be read: the worker asks again.
    async fn done_before(&self, spoken: &Spoken<DoneRequest>, reason: Stop) -> Option<DoneReply> {
        let request = spoken.message.get();
        let refused = DoneReply::Refused { reason };
        // A lease that has lapsed says as well whose report it was.
        let lease = Lease::check(&request.lease, &self.lease_key, &spoken.worker, UnixMs(0));
        let Ok(lease) = lease else { return Some(refused) };
        let stored = match self.bus.job(&lease.tenant, &lease.job).await {
            Ok(Some(stored)) => stored,
            Ok(None) => return Some(refused),
            Err(error) => {
                warn!(%error, job = %lease.job, "job not read; the worker will repeat its report");
                return None;
            }
        };
        let same = stored.message.get().attempts.iter().any(|attempt| {
            attempt.number == lease.attempt
                && attempt.worker == spoken.worker
                && attempt.report.as_ref() == Some(&request.report)
        });
        Some(if same { DoneReply::Accepted } else { refused })
    }

    /// No answer when the log cannot take the record: the worker asks again.
    async fn grant(&self, held: &Held, grants: Vec<Grant>) -> Result<(), NotHeld> {
        let act = AuditAct::Granted {
            to: Role::Encoder,
            worker: Some(held.lease.worker.clone()),
            job: Some(held.lease.job.clone()),
            attempt: Some(held.lease.attempt),
            grants,
        };
        self.record_grant(&held.lease.tenant, act).await.map_err(|_| NotHeld::Unread)
    }
}

/// The worker's signature over its report.
fn seal(incoming: &Incoming) -> Option<ReportSeal> {
    let envelope = incoming.envelope().ok()?;
    Some(ReportSeal {
        key: envelope.key.clone(),
        msg_id: envelope.msg_id.clone(),
        time: envelope.time,
        body_digest: Digest::of(&envelope.body),
        sig: hex::encode(&envelope.sig),
    })
}

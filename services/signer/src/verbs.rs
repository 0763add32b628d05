//! The verbs of a lease: `inputs`, `beat`, `urls`, `done`.

use crate::{
    Signer,
    leases::{Held, Spoken},
    mint::{Granted, ReadFor},
    queue::{Settle, settle},
    transitions,
};
use hotcell_schemas::{
    BlobKey, Digest, EventKind, Role,
    job::{Grant, ReportSeal},
    limits::{ATTEMPT_RETRY_MS, LEASE_SECS, STDERR_BYTES_MAX},
    records::{AuditAct, Refusal},
    subject::LeaseVerb,
    work::{
        BeatReply, BeatRequest, DoneReply, DoneRequest, InputsReply, LeaseRequest, OrderInput,
        PutUrl, Stop, UrlsReply, UrlsRequest,
    },
};
use hotcell_stage::{Incoming, Outgoing, PublishError, clock};
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
            let reply = signer.inputs(&spoken).await;
            incoming.answer(&reply.unwrap_or_else(|reason| InputsReply::Refused { reason })).await;
        }
        LeaseVerb::Beat => {
            let Some(spoken) = signer.spoken::<BeatRequest>(&incoming).await else { return };
            let reply = signer.beat(&spoken).await;
            incoming.answer(&reply.unwrap_or_else(|reason| BeatReply::Stop { reason })).await;
        }
        LeaseVerb::Urls => {
            let Some(spoken) = signer.spoken::<UrlsRequest>(&incoming).await else { return };
            let reply = signer.urls(&spoken).await;
            incoming.answer(&reply.unwrap_or_else(|reason| UrlsReply::Refused { reason })).await;
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
    async fn inputs(&self, spoken: &Spoken<LeaseRequest>) -> Result<InputsReply, Stop> {
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
        self.grant(&held, grants, spoken.message.msg_id()).await?;
        Ok(InputsReply::Inputs { inputs })
    }

    async fn beat(&self, spoken: &Spoken<BeatRequest>) -> Result<BeatReply, Stop> {
        let held = self.held(&spoken.message.get().lease, &spoken.worker).await?;
        settle(&self.bus, Some(&held.lease.ack), Settle::InProgress).await;
        let until = clock::now().plus_ms(u64::from(LEASE_SECS) * 1000);
        let lease = hotcell_schemas::lease::Lease { until, ..held.lease };
        Ok(BeatReply::GoOn { lease: lease.token(&self.lease_key), lease_until: until })
    }

    async fn urls(&self, spoken: &Spoken<UrlsRequest>) -> Result<UrlsReply, Stop> {
        let request = spoken.message.get();
        let held = self.held(&request.lease, &spoken.worker).await?;
        let (now, job, attempt) = (clock::now(), &held.job, held.lease.attempt);
        if !request.files.is_empty() && !transitions::is_planned(job, &request.files) {
            return Err(Stop::NotPlanned);
        }
        let mut grants = Vec::new();
        let mut put = |key: &BlobKey, size: u64, kind: &str, digest: Digest| {
            let Granted { url, grant } =
                self.mint.put(key, size, kind, Some(digest), now).map_err(|_| Stop::NotPlanned)?;
            grants.push(grant);
            Ok(url)
        };
        let mut files = Vec::with_capacity(request.files.len());
        for file in &request.files {
            let key = BlobKey::output(&job.tenant, &job.id, attempt, &file.name);
            let put = put(&key, file.size, &file.content_type, file.sha256)?;
            files.push(PutUrl { name: file.name.clone(), put });
        }
        let stderr = match request.stderr {
            Some((size, _)) if size == 0 || size > STDERR_BYTES_MAX => {
                return Err(Stop::NotPlanned);
            }
            Some((size, digest)) => {
                let key = BlobKey::stderr(&job.tenant, &job.id, attempt);
                Some(put(&key, size, ZSTD, digest)?)
            }
            None => None,
        };
        self.grant(&held, grants, spoken.message.msg_id()).await?;
        Ok(UrlsReply::Urls { files, stderr })
    }

    async fn done(&self, spoken: &Spoken<DoneRequest>, incoming: &Incoming) -> Option<DoneReply> {
        let request = spoken.message.get();
        let held = match self.held(&request.lease, &spoken.worker).await {
            Ok(held) => held,
            Err(reason) => return Some(self.done_before(spoken, reason).await),
        };
        if held.job.id != request.job || held.lease.attempt != request.attempt {
            self.refused(Refusal::Lease, incoming.subject(), "the report is of another job").await;
            return Some(DoneReply::Refused { reason: Stop::BadLease });
        }
        let envelope = incoming.envelope().ok()?;
        let seal = ReportSeal {
            key: envelope.key.clone(),
            msg_id: envelope.msg_id.clone(),
            time: envelope.time,
            body_digest: Digest::of(&envelope.body),
            sig: hex::encode(&envelope.sig),
        };
        let now = clock::now();
        let next = transitions::reported(held.job, request.report.clone(), seal, now);
        let (id, state) = (next.id.clone(), next.state);
        match self.bus.publish(&Outgoing::job(next, held.seq)).await {
            Ok(_) => {
                let again = state == EventKind::AttemptFailed;
                let how = if again { Settle::RetryMs(ATTEMPT_RETRY_MS) } else { Settle::Done };
                settle(&self.bus, Some(&held.lease.ack), how).await;
                info!(job = %id, %state, worker = %spoken.worker, "reported");
                Some(DoneReply::Accepted)
            }
            Err(PublishError::Conflict) => Some(DoneReply::Refused { reason: Stop::LeaseLost }),
            Err(error) => {
                warn!(%error, job = %id, "report not published; the worker will repeat it");
                None
            }
        }
    }

    /// A report repeated because its answer was lost is accepted again; any other is refused.
    async fn done_before(&self, spoken: &Spoken<DoneRequest>, reason: Stop) -> DoneReply {
        let request = spoken.message.get();
        let lease = hotcell_schemas::lease::Lease::check(
            &request.lease,
            &self.lease_key,
            &spoken.worker,
            hotcell_schemas::UnixMs(0),
        );
        let Ok(lease) = lease else { return DoneReply::Refused { reason } };
        let Ok(Some(stored)) = self.bus.job(&lease.tenant, &lease.job).await else {
            return DoneReply::Refused { reason };
        };
        let same = stored.message.get().attempts.iter().any(|attempt| {
            attempt.number == lease.attempt
                && attempt.worker == spoken.worker
                && attempt.report.as_ref() == Some(&request.report)
        });
        if same { DoneReply::Accepted } else { DoneReply::Refused { reason } }
    }

    async fn grant(&self, held: &Held, grants: Vec<Grant>, request_id: &str) -> Result<(), Stop> {
        let act = AuditAct::Granted {
            to: Role::Encoder,
            worker: Some(held.lease.worker.clone()),
            job: Some(held.lease.job.clone()),
            attempt: Some(held.lease.attempt),
            grants,
        };
        self.record_grant(&held.lease.tenant, act, request_id).await.map_err(|_| Stop::LeaseLost)
    }
}

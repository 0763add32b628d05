//! URLs for the trusted services, each only for what its stage has business with.

use crate::{
    Signer,
    mint::{Mint, ReadFor},
    quota::QuotaError,
};
use hotcell_schemas::{
    BlobKey, EventKind, Job, JobId, TenantId, Verified,
    limits::UPLOAD_BYTES_MAX,
    records::{AuditAct, Refusal},
    subject::SignVerb,
    work::{SignReply, SignRequest},
};
use hotcell_stage::{Incoming, Outgoing, clock, service::describe};
use std::sync::Arc;
use tracing::warn;

/// The rows of the route table that this file serves.
pub(crate) const VERBS: [(&str, SignVerb); 5] = [
    ("sign.upload", SignVerb::Upload),
    ("sign.confirm", SignVerb::Confirm),
    ("sign.download", SignVerb::Download),
    ("sign.input", SignVerb::Input),
    ("sign.output", SignVerb::Output),
];

/// Why there is no URL.
enum NoUrl {
    /// It is not the asker's to have; goes on record.
    Refused(&'static str),
    /// Nobody can tell now.
    Later(&'static str),
}

pub(crate) async fn handle(signer: Arc<Signer>, verb: SignVerb, incoming: Incoming) {
    let request: Verified<SignRequest> = match incoming.open() {
        Ok(request) => request,
        Err(error) => {
            let reason = error.to_string();
            signer.refused(Refusal::Envelope, incoming.subject(), &reason).await;
            return;
        }
    };
    let reply = match signer.signed(verb, &request).await {
        Ok(reply) => reply,
        Err(NoUrl::Refused(reason)) => {
            signer.refused(Refusal::Scope, incoming.subject(), reason).await;
            SignReply::Refused { reason: reason.to_owned() }
        }
        Err(NoUrl::Later(reason)) => SignReply::Later { reason: reason.to_owned() },
    };
    incoming.answer(&reply).await;
}

impl Signer {
    async fn signed(
        &self,
        verb: SignVerb,
        request: &Verified<SignRequest>,
    ) -> Result<SignReply, NoUrl> {
        let (SignRequest::Upload { tenant, key, .. } | SignRequest::Read { tenant, key, .. }) =
            request.get();
        // Whatever a job says: its bytes are under its tenant's prefix.
        if !key.belongs_to(tenant) {
            return Err(NoUrl::Refused("the key is not the tenant's"));
        }
        let now = clock::now();
        let (tenant, job, granted) = match (verb, request.get()) {
            (SignVerb::Upload, SignRequest::Upload { tenant, key, size, content_type }) => {
                if !is_upload(tenant, key) {
                    return Err(NoUrl::Refused("the key is not an upload of the tenant"));
                }
                if *size == 0 || *size > UPLOAD_BYTES_MAX {
                    return Err(NoUrl::Refused("the size is outside the limit for uploads"));
                }
                if let Some(over) = self.reserved(tenant, *size).await? {
                    return Ok(over);
                }
                (tenant, None, self.mint.put(key, *size, content_type, None, now))
            }
            (SignVerb::Confirm, SignRequest::Read { tenant, key, job: None }) => {
                if !is_upload(tenant, key) {
                    return Err(NoUrl::Refused("the key is not an upload of the tenant"));
                }
                (tenant, None, self.mint.get(key, ReadFor::Service, now))
            }
            (SignVerb::Input, SignRequest::Read { tenant, key, job: Some(job) }) => {
                self.check_job(tenant, job, EventKind::Submitted, |job| {
                    job.inputs.iter().any(|input| input.key == *key)
                })
                .await?;
                (tenant, Some(job), self.mint.get(key, ReadFor::Service, now))
            }
            (SignVerb::Output, SignRequest::Read { tenant, key, job: Some(job) }) => {
                let outputs = self.outputs(tenant, job, EventKind::Encoded, key).await?;
                (tenant, Some(job), outputs.get(key, ReadFor::Service, now))
            }
            (SignVerb::Download, SignRequest::Read { tenant, key, job: Some(job) }) => {
                let outputs = self.outputs(tenant, job, EventKind::Completed, key).await?;
                (tenant, Some(job), outputs.get(key, ReadFor::Tenant, now))
            }
            (
                SignVerb::Upload
                | SignVerb::Confirm
                | SignVerb::Input
                | SignVerb::Output
                | SignVerb::Download,
                SignRequest::Upload { .. } | SignRequest::Read { .. },
            ) => return Err(NoUrl::Refused("the request does not fit its subject")),
        };
        let granted = granted.map_err(|_| NoUrl::Refused("the URL cannot be signed"))?;
        let act = AuditAct::Granted {
            to: request.role(),
            worker: None,
            job: job.cloned(),
            attempt: None,
            grants: vec![granted.grant],
        };
        self.record_grant(tenant, act).await.map_err(NoUrl::Later)?;
        Ok(SignReply::Signed { signed: granted.url })
    }

    /// The answer where an upload would exceed its tenant's quota.
    async fn reserved(&self, tenant: &TenantId, size: u64) -> Result<Option<SignReply>, NoUrl> {
        match self.quota.reserve(tenant, size).await {
            Ok(()) => Ok(None),
            Err(QuotaError::Over { stored_bytes_max }) => {
                Ok(Some(SignReply::OverQuota { stored_bytes_max }))
            }
            Err(QuotaError::NoTenant) => Err(NoUrl::Refused("there is no such tenant")),
            Err(QuotaError::Unknown(reason)) => Err(NoUrl::Later(reason)),
        }
    }

    /// No record, no URL. The record's id is its own: an asker that repeats a request's id would
    /// otherwise get URLs whose record the broker drops as a repeat.
    pub(crate) async fn record_grant(
        &self,
        tenant: &TenantId,
        act: AuditAct,
    ) -> Result<(), &'static str> {
        let id = format!("grant.{}", hex::encode(clock::random::<16>()));
        let out = Outgoing::audit(Some(tenant), act, id);
        match self.bus.publish(&out).await {
            Ok(_) => Ok(()),
            Err(error) => {
                warn!(%error, "grant not recorded; no URL is issued");
                Err("the audit log cannot take the grant")
            }
        }
    }

    /// Where the output `key` of a job in `state` is.
    async fn outputs(
        &self,
        tenant: &TenantId,
        id: &JobId,
        state: EventKind,
        key: &BlobKey,
    ) -> Result<Arc<Mint>, NoUrl> {
        let names = |job: &Job| job.outputs.iter().any(|output| output.key == *key);
        let job = self.check_job(tenant, id, state, names).await?;
        let outputs = self.outputs_of(&job).await.map_err(|error| {
            warn!(job = %id, error = %describe(&error), "no URL for an output");
            NoUrl::Later("the job's destination cannot be used now")
        })?;
        outputs.map_err(|failure| {
            warn!(job = %id, reason = failure.message, "no URL for an output");
            NoUrl::Refused("the job's destination is not, or no longer, one of the tenant's")
        })
    }

    async fn check_job(
        &self,
        tenant: &TenantId,
        id: &JobId,
        state: EventKind,
        names: impl Fn(&Job) -> bool,
    ) -> Result<Job, NoUrl> {
        let stored = self.bus.job(tenant, id).await.map_err(|error| {
            warn!(%error, "job not read");
            NoUrl::Later("the job cannot be read")
        })?;
        let job = stored.ok_or(NoUrl::Refused("there is no such job"))?.message.into_inner();
        if job.state != state {
            return Err(NoUrl::Refused("the job is in another state"));
        }
        let named = names(&job).then_some(job);
        named.ok_or(NoUrl::Refused("the job does not name this object"))
    }
}

fn is_upload(tenant: &TenantId, key: &BlobKey) -> bool {
    key.as_str().starts_with(&BlobKey::uploads_prefix(tenant))
}

/// The role of a verb's asker, for tests of the table.
#[cfg(test)]
fn asker(verb: SignVerb) -> hotcell_schemas::Role {
    use hotcell_schemas::Role;
    match verb {
        SignVerb::Upload | SignVerb::Confirm | SignVerb::Download => Role::Intake,
        SignVerb::Input => Role::Validator,
        SignVerb::Output => Role::Hasher,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hotcell_schemas::{Subject, routes};

    #[test]
    fn every_verb_is_one_row_of_its_one_asker() {
        for (name, verb) in VERBS {
            let route = routes::route(name).unwrap();
            assert_eq!(route.publishers, [asker(verb)], "{name}");
            assert_eq!(route.filter(), Subject::sign(verb).as_str(), "{name}");
        }
    }
}

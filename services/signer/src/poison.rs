//! What a report is held to before it is taken: refused system calls are told to the log at once,
//! and a cell's death is counted against the input's bytes.
//!
//! Promises: all of it is on the broker's disk before the worker has its answer and before the
//! job's next event, so a signer that dies in between loses nothing: the worker repeats its report,
//! and an attempt that was counted is not counted again. Refuses to take a report that it could not
//! count. Believes the worker: who takes over a worker can accuse files that he was given to run,
//! and the operator releases them.

use crate::Signer;
use hotcell_schemas::{
    Digest, Job, Report, TenantId, UnixMs, WorkerId,
    poison::{PoisonRecord, Scope, Strike},
    records::AuditAct,
};
use hotcell_stage::{Outgoing, PublishError, kv::KvError};
use tracing::warn;

/// Writes of one record that lose to another signer's before the worker is let ask again. Each loss
/// is a strike of another attempt, and the second ends the file.
const TRIES_MAX: u32 = 8;

/// Linux's longest name of a call (`map_shadow_stack`, `set_mempolicy_home_node`) has 23 bytes.
const CALL_BYTES_MAX: usize = 40;

/// What stands for a text that is no name of a call.
const UNKNOWN_CALL: &str = "unknown";

/// Why a report is not taken now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChargeError {
    /// The violation is not in the log.
    #[error("the violation is not recorded")]
    Violation(#[source] PublishError),
    /// The strike is not counted.
    #[error("the strike is not counted")]
    Strike(#[source] KvError),
}

/// A call's name as it may stand in the log and on a terminal; the text is the worker's.
fn named(call: &str) -> &str {
    let is_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    let good = (1..=CALL_BYTES_MAX).contains(&call.len()) && call.bytes().all(is_name);
    if good { call } else { UNKNOWN_CALL }
}

impl Signer {
    /// Records what the report of the job's last attempt says against its inputs; whether one of
    /// them is in quarantine now because of it.
    pub(crate) async fn charge(
        &self,
        job: &Job,
        worker: &WorkerId,
        report: &Report,
        now: UnixMs,
    ) -> Result<bool, ChargeError> {
        if let Some(call) = report.violation() {
            self.violation(job, worker, call, report.provenance.profile_digest).await?;
        }
        let code = report.failure.as_ref().map(|failure| failure.code);
        let Some((code, scope)) = code.and_then(|code| Some((code, Scope::of(code)?))) else {
            return Ok(false);
        };
        // FFmpeg's own arguments can crash it on any file, also on one that others hold.
        let own = scope == Scope::Tenant || job.request.has_raw_arguments();
        let mut quarantined = false;
        for input in &job.inputs {
            let strike = Strike {
                tenant: job.tenant.clone(),
                job: job.id.clone(),
                attempt: job.attempt(),
                worker: worker.clone(),
                code,
                at: now,
            };
            let tenant = own.then_some(&job.tenant);
            let strike = self.strike(input.sha256, tenant, strike).await;
            quarantined |= strike.map_err(ChargeError::Strike)?;
        }
        Ok(quarantined)
    }

    /// The record's id is the attempt's, so the broker drops a repeat.
    async fn violation(
        &self,
        job: &Job,
        worker: &WorkerId,
        call: &str,
        profile_digest: Digest,
    ) -> Result<(), ChargeError> {
        let (tenant, attempt) = (&job.tenant, job.attempt());
        let call = named(call);
        warn!(%tenant, job = %job.id, attempt, %worker, call, "cell killed for a system call");
        let act = AuditAct::Violation {
            job: job.id.clone(),
            attempt,
            worker: worker.clone(),
            call: call.to_owned(),
            inputs: job.inputs.iter().map(|input| input.sha256).collect(),
            profile_digest,
        };
        let id = format!("violation.{}.{attempt}", job.id);
        let sent = self.bus.publish(&Outgoing::audit(Some(tenant), act, id)).await;
        sent.map(|_| ()).map_err(ChargeError::Violation)
    }

    /// Counts one strike; whether the input is in quarantine.
    async fn strike(
        &self,
        sha256: Digest,
        tenant: Option<&TenantId>,
        strike: Strike,
    ) -> Result<bool, KvError> {
        let (bucket, key) = (self.bus.bucket("poison"), PoisonRecord::key(sha256, tenant));
        let mut tries = 0;
        loop {
            tries += 1;
            let (entry, revision) = bucket.look::<PoisonRecord>(&key).await?;
            let mut record = entry
                .map_or_else(|| PoisonRecord::new(sha256, tenant.cloned()), |entry| entry.value);
            if !record.strike(strike.clone()) {
                return Ok(record.is_quarantined());
            }
            match bucket.update(&key, &record, revision).await {
                Ok(_) => {
                    let (strikes, quarantined) = (record.strikes.len(), record.is_quarantined());
                    warn!(%sha256, strikes, quarantined, code = %strike.code, "input killed a cell");
                    return Ok(quarantined);
                }
                Err(KvError::Conflict) if tries < TRIES_MAX => {}
                Err(error) => return Err(error),
            }
        }
    }
}

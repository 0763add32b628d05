//! What becomes of a job once its input is read.
//!
//! Promises: pure; the snapshot moves to `validated` with a plan, or to `rejected` with one reason.

use crate::compile::compile;
use hotcell_schemas::{
    EventKind, Job, Plan, UnixMs,
    job::Input,
    plan::Sniffed,
    reject::{Failure, RejectCode},
};

/// Why a message that verifies is still no job for the validator: a constant for the audit log.
pub(crate) fn nonsense(job: &Job) -> Option<&'static str> {
    let [input] = job.inputs.as_slice() else { return Some("the job has not exactly one input") };
    if job.state != EventKind::Submitted {
        return Some("the job is not in state submitted");
    }
    (!input.key.belongs_to(&job.tenant)).then_some("the input is another tenant's")
}

/// The refusal of an object that is not the one that was pinned when its upload was confirmed.
pub(crate) fn changed() -> Failure {
    let message = "the stored file is not the one that was confirmed: upload it again";
    Failure::new(RejectCode::InputChanged, message)
}

/// Whether what the store says before the first byte is what was pinned.
pub(crate) fn is_pinned(input: &Input, size: Option<u64>, etag: &str) -> bool {
    size.is_none_or(|size| size == input.size) && etag == input.etag
}

/// The plan for an input that was accepted.
pub(crate) fn plan(
    job: &Job,
    sniffed: Result<Sniffed, Failure>,
) -> Result<(Sniffed, Plan), Failure> {
    let sniffed = sniffed?;
    let plan = compile(&job.request, &sniffed)?;
    Ok((sniffed, plan))
}

/// The job's next snapshot.
pub(crate) fn settle(mut job: Job, verdict: Result<(Sniffed, Plan), Failure>, at: UnixMs) -> Job {
    match verdict {
        Ok((sniffed, plan)) => {
            if let Some(input) = job.inputs.first_mut() {
                input.sniffed = Some(sniffed);
            }
            job.plan = Some(plan);
            job.moved(EventKind::Validated, at)
        }
        Err(failure) => {
            job.failure = Some(failure);
            job.moved(EventKind::Rejected, at)
        }
    }
}

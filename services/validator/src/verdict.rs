//! What becomes of a job once its input is read.
//!
//! Promises: pure; the snapshot moves to `validated` with a plan, or to `rejected` with one reason.

use crate::compile::{CPU_SECS, WALL_SECS, compile};
use hotcell_policy::recheck::Refused;
use hotcell_schemas::{
    EventKind, Job, Plan, UnixMs,
    identity::Decided,
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

/// The plan with at most this much wall clock, and processor time in proportion. A limit is
/// lowered, never raised.
pub(crate) fn within(mut plan: Plan, wall_secs_max: u32) -> Plan {
    let limits = &mut plan.limits;
    limits.wall_secs = limits.wall_secs.min(wall_secs_max);
    limits.cpu_secs = limits.cpu_secs.min(wall_secs_max.saturating_mul(CPU_SECS / WALL_SECS));
    plan
}

/// The job's next snapshot when it may go on.
pub(crate) fn settle(
    mut job: Job,
    sniffed: Sniffed,
    plan: Plan,
    decided: Vec<Decided>,
    at: UnixMs,
) -> Job {
    if let Some(input) = job.inputs.first_mut() {
        input.sniffed = Some(sniffed);
    }
    job.plan = Some(plan);
    job.decisions.extend(decided);
    job.moved(EventKind::Validated, at)
}

/// The job's next snapshot when it may not.
pub(crate) fn refuse(mut job: Job, refused: Refused, at: UnixMs) -> Job {
    job.decisions.extend(refused.decided);
    job.failure = Some(refused.failure);
    job.moved(EventKind::Rejected, at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hotcell_schemas::plan::Container;

    #[test]
    fn a_configured_clock_lowers_a_plans_and_never_raises_it() {
        let sniffed = Sniffed {
            container: Container::Mp4,
            content_type: "video/mp4".to_owned(),
            width: Some(320),
            height: Some(240),
            has_video: Some(true),
            has_audio: Some(true),
            duration_ms: Some(1000),
            protected: false,
        };
        let request = serde_json::json!({
            "inputs": [{ "url": "upload:1-a.mp4" }],
            "outputFormat": "mp4",
            "preset": { "quality": "low", "resolution": "240p" },
        });
        let request = serde_json::from_value(request).unwrap();
        let plan = compile(&request, &sniffed).unwrap();
        let clocks = |max: u32| {
            let limits = within(plan.clone(), max).limits;
            (limits.wall_secs, limits.cpu_secs)
        };
        assert_eq!(clocks(15), (15, 60));
        assert_eq!(clocks(WALL_SECS), (WALL_SECS, CPU_SECS));
        assert_eq!(clocks(u32::MAX), (WALL_SECS, CPU_SECS));
        assert_eq!(within(plan.clone(), 15).argv, plan.argv);
    }
}

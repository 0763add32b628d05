//! The transitions of a job that the signer makes. Pure: a snapshot in, the next snapshot out.

use hotcell_policy::recheck::Refused;
use hotcell_schemas::{
    BlobKey, EventKind, Job, PoolId, RejectCode, UnixMs, WorkerId, argv,
    identity::Decided,
    job::{Attempt, Grant, Output, ReportSeal},
    limits::{ATTEMPTS_MAX, FILES_MAX, LEASE_SECS},
    poison::PoisonRecord,
    reject::Failure,
    report::{ProducedFile, Report},
};

/// Attempts in all, also those that a worker gave back when it was stopped: a rolling restart of
/// the pool must not fail a job, and a job must not circle for ever.
pub const ATTEMPTS_IN_ALL_MAX: usize = 10;

/// Reports of earlier attempts that a snapshot carries. With the newest they are three times a
/// worker's payload limit of 32 KiB, which leaves a quarter of a body to the job itself.
pub const REPORTS_KEPT: usize = 2;

/// Whether no further attempt may be made.
#[must_use]
pub fn is_exhausted(job: &Job) -> bool {
    let counts = |attempt: &&Attempt| {
        attempt.failure.as_ref().is_none_or(|failure| failure.code != RejectCode::WorkerStopped)
    };
    let failed = u32::try_from(job.attempts.iter().filter(counts).count()).unwrap_or(u32::MAX);
    failed >= ATTEMPTS_MAX || job.attempts.len() >= ATTEMPTS_IN_ALL_MAX
}

/// Whether a delivery at `now` can mean that the last attempt's lease lapsed: the broker delivers
/// again only after a whole lease without a beat.
#[must_use]
pub fn may_lapse(job: &Job, now: UnixMs) -> bool {
    job.attempts.last().is_none_or(|last| {
        last.ended_at.is_some()
            || now.since_ms(last.assigned_at) >= u64::from(LEASE_SECS).saturating_mul(1000)
    })
}

/// Closes an attempt whose lease lapsed without a report.
#[must_use]
pub fn lapsed(mut job: Job, now: UnixMs) -> Job {
    if let Some(last) = job.attempts.last_mut().filter(|last| last.ended_at.is_none()) {
        last.ended_at = Some(now);
        last.failure = Some(Failure::new(
            RejectCode::LeaseLost,
            "the worker stopped beating before it reported",
        ));
    }
    job
}

/// Gives the next attempt to `worker`.
#[must_use]
pub fn assigned(
    mut job: Job,
    worker: &WorkerId,
    worker_key: &str,
    pool: &PoolId,
    grants: Vec<Grant>,
    now: UnixMs,
) -> Job {
    let number = job.attempt() + 1;
    // A snapshot must fit a message whatever workers wrote into their reports, or the job could
    // never move again. Each report stays whole in the event that brought it.
    let surplus = job.attempts.len().saturating_sub(REPORTS_KEPT);
    for attempt in job.attempts.iter_mut().take(surplus) {
        attempt.report = None;
    }
    job.attempts.push(Attempt {
        number,
        worker: worker.clone(),
        worker_key: worker_key.to_owned(),
        pool: pool.clone(),
        assigned_at: now,
        grants,
        ended_at: None,
        report: None,
        seal: None,
        failure: None,
    });
    job.moved(EventKind::Assigned, now)
}

/// No further attempt: the job failed with its last error.
#[must_use]
pub fn exhausted(mut job: Job, now: UnixMs) -> Job {
    let last = job.attempts.last().and_then(|attempt| attempt.failure.as_ref());
    let detail = last.map_or_else(String::new, |last| format!("{}: {}", last.code, last.message));
    job.failure = Some(Failure::new(
        RejectCode::AttemptsExhausted,
        format!("{} attempts were made; the last ended with {detail}", job.attempts.len()),
    ));
    job.moved(EventKind::Failed, now)
}

/// Whether the files of a report are exactly the planned ones, within their limits.
#[must_use]
pub fn is_planned(job: &Job, files: &[ProducedFile]) -> bool {
    let Some(plan) = &job.plan else { return false };
    files.len() == plan.outputs.len()
        && files.len() <= FILES_MAX
        && plan.outputs.iter().zip(files).all(|(planned, made)| {
            planned.name == made.name
                && planned.content_type == made.content_type
                && made.size > 0
                && made.size <= plan.limits.output_bytes
        })
}

/// A job whose input is in quarantine: it gets no attempt any more.
#[must_use]
pub fn withheld(mut job: Job, quarantine: &PoisonRecord, now: UnixMs) -> Job {
    job.failure = Some(quarantine.refusal());
    job.moved(EventKind::Failed, now)
}

/// A job with what this node decided about it. A later decision on the same action takes the place
/// of an earlier one, which is in the event that brought it: a snapshot must fit a message.
#[must_use]
pub fn decided(mut job: Job, decided: Vec<Decided>) -> Job {
    let again =
        |old: &Decided| decided.iter().any(|new| (new.node, new.action) == (old.node, old.action));
    job.decisions.retain(|old| !again(old));
    job.decisions.extend(decided);
    job
}

/// A job that may not go on.
#[must_use]
pub fn forbidden(job: Job, refused: Refused, now: UnixMs) -> Job {
    let mut job = decided(job, refused.decided);
    job.failure = Some(refused.failure);
    job.moved(EventKind::Failed, now)
}

/// A job whose outputs may not be stored any more when they are reported: they do not count.
#[must_use]
pub fn withdrawn(mut job: Job, refused: Refused, now: UnixMs) -> Job {
    job.outputs.clear();
    job.stamps.retain(|stamp| stamp.event != EventKind::Encoded);
    forbidden(job, refused, now)
}

/// The end of a job that no worker may be given any more: it had its attempts, or its command line
/// is not what its plan compiles to here, because another version of hotcell compiled it. No worker
/// of this version obeys such an order, and three of them would fall silent over it.
#[must_use]
pub fn over(job: &Job, now: UnixMs) -> Option<Job> {
    if is_exhausted(job) {
        return Some(exhausted(job.clone(), now));
    }
    if job.plan.as_ref().is_some_and(argv::agrees) {
        return None;
    }
    let message = "another version of hotcell planned this job: submit it again";
    let failure = Some(Failure::new(RejectCode::RequestUnsupported, message));
    Some(Job { failure, ..job.clone() }.moved(EventKind::Failed, now))
}

/// What a worker's code means for this job: only a bucket of the tenant's refuses for good. What hotcell's
/// own store refuses is tried again, whatever a worker calls it.
fn code_of(job: &Job, stated: RejectCode) -> RejectCode {
    match (stated, &job.request.destination) {
        (RejectCode::DestinationRefused, None) => RejectCode::UploadFailed,
        _ => stated,
    }
}

/// What a report makes of its job: `encoded`, `attempt_failed`, or `failed`. An input that is in
/// quarantine since this report gets no further attempt, so the job ends with the report's own code.
#[must_use]
pub fn reported(
    mut job: Job,
    report: Report,
    seal: ReportSeal,
    quarantined: bool,
    now: UnixMs,
) -> Job {
    // The worker's sentence is cut to the length of ours; its report keeps it whole.
    let stated = report.failure.as_ref();
    let stated = stated.map(|it| Failure::new(code_of(&job, it.code), &it.message));
    let failure = stated.or_else(|| {
        let planned = is_planned(&job, &report.files);
        (!planned).then(|| {
            Failure::new(RejectCode::OutputMissing, "the report does not list the planned files")
        })
    });
    let files = report.files.clone();
    if let Some(last) = job.attempts.last_mut() {
        last.ended_at = Some(now);
        last.failure = failure.clone();
        last.report = Some(report);
        last.seal = Some(seal);
    }
    let Some(failure) = failure else {
        let number = job.attempt();
        job.outputs = files
            .into_iter()
            .map(|file| Output {
                key: BlobKey::output(&job.tenant, &job.id, number, &file.name),
                name: file.name,
                size: file.size,
                content_type: file.content_type,
                sha256: file.sha256,
            })
            .collect();
        return job.moved(EventKind::Encoded, now);
    };
    if quarantined || !failure.code.is_retryable() {
        job.failure = Some(failure);
        return job.moved(EventKind::Failed, now);
    }
    if is_exhausted(&job) {
        return exhausted(job, now);
    }
    job.moved(EventKind::AttemptFailed, now)
}

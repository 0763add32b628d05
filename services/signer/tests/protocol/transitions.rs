//! The signer's transitions as a table: pure, so time is an argument.

use crate::job::{at, failed, plan, report, submitted};
use hotcell_schemas::{
    EventKind, Job, RejectCode, UnixMs,
    job::ReportSeal,
    limits::{ATTEMPTS_MAX, LEASE_SECS},
    poison::PoisonRecord,
    reject::Failure,
};
use hotcell_signer::transitions::{
    ATTEMPTS_IN_ALL_MAX, assigned, exhausted, is_exhausted, lapsed, may_lapse, over, reported,
    withheld,
};

fn seal() -> ReportSeal {
    ReportSeal {
        key: "U".to_owned(),
        msg_id: "m".to_owned(),
        time: UnixMs(0),
        body_digest: hotcell_schemas::Digest::of(b""),
        sig: String::new(),
    }
}

fn validated() -> Job {
    Job { plan: Some(plan()), ..submitted("acme", "cpu") }.moved(EventKind::Validated, at(0))
}

fn given(job: Job, secs: u64) -> Job {
    let pool = job.pool.clone();
    assigned(job, &"w1".parse().unwrap(), "UKEY", &pool, Vec::new(), at(secs))
}

/// A job whose attempts ended with these codes.
fn after(codes: &[RejectCode]) -> Job {
    codes.iter().fold(validated(), |job, code| {
        let mut job = lapsed(given(job, 0), at(1));
        job.attempts.last_mut().unwrap().failure = Some(Failure::new(*code, "x"));
        job
    })
}

#[test]
fn a_delivery_means_a_lapse_only_after_a_whole_lease() {
    let check = |job: &Job, now: UnixMs, expect: bool| {
        assert_eq!(may_lapse(job, now), expect, "at {}", now.0);
    };
    let lease = u64::from(LEASE_SECS);
    check(&validated(), at(0), true);
    let running = given(validated(), 100);
    check(&running, at(100), false);
    check(&running, UnixMs((100 + lease) * 1000 - 1), false);
    check(&running, at(100 + lease), true);
    // A clock that went back is no lapse.
    check(&running, at(50), false);
    check(&lapsed(running, at(101)), at(101), true);
}

#[test]
fn a_lapse_closes_the_open_attempt_and_no_other() {
    let fresh = validated();
    assert_eq!(lapsed(fresh.clone(), at(9)), fresh);
    let closed = lapsed(given(fresh, 1), at(30));
    let last = closed.attempts.last().unwrap();
    assert_eq!(last.ended_at, Some(at(30)));
    assert_eq!(last.failure.as_ref().unwrap().code, RejectCode::LeaseLost);
    assert_eq!(lapsed(closed.clone(), at(40)), closed);
}

#[test]
fn attempts_are_counted_but_not_those_that_a_stopped_worker_gave_back() {
    use RejectCode::{CellCrashed, LeaseLost, WorkerStopped};
    let check = |codes: &[RejectCode], expect: bool| {
        assert_eq!(is_exhausted(&after(codes)), expect, "{codes:?}");
    };
    assert_eq!((ATTEMPTS_MAX, ATTEMPTS_IN_ALL_MAX), (3, 10), "the table below is for these");
    check(&[], false);
    check(&[CellCrashed, LeaseLost], false);
    check(&[CellCrashed, LeaseLost, LeaseLost], true);
    check(&[WorkerStopped; 9], false);
    check(&[WorkerStopped; 10], true);
    check(&[WorkerStopped, CellCrashed, WorkerStopped, LeaseLost], false);
    check(&[WorkerStopped, CellCrashed, WorkerStopped, LeaseLost, LeaseLost], true);
}

#[test]
fn a_report_becomes_the_next_state() {
    use EventKind::{AttemptFailed, Encoded, Failed};
    let check = |before: &[RejectCode], report, state, code: Option<RejectCode>| {
        let job = reported(given(after(before), 5), report, seal(), false, at(9));
        assert_eq!(job.state, state);
        assert_eq!(job.failure.as_ref().map(|failure| failure.code), code);
        let last = job.attempts.last().unwrap();
        assert_eq!(last.ended_at, Some(at(9)));
        assert!(last.report.is_some() && last.seal.is_some());
        assert_eq!(job.outputs.is_empty(), state != Encoded);
    };
    use RejectCode::{AttemptsExhausted, CellCrashed, EncodeFailed, OutputMissing, WorkerStopped};
    check(&[], report("ok"), Encoded, None);
    check(&[CellCrashed, CellCrashed], report("ok"), Encoded, None);
    check(&[], failed(EncodeFailed), Failed, Some(EncodeFailed));
    check(&[], failed(CellCrashed), AttemptFailed, None);
    check(&[CellCrashed; 2], failed(CellCrashed), Failed, Some(AttemptsExhausted));
    check(&[CellCrashed; 2], failed(WorkerStopped), AttemptFailed, None);
    check(&[WorkerStopped; 9], failed(WorkerStopped), Failed, Some(AttemptsExhausted));
    let mut none = report("ok");
    none.files.clear();
    check(&[], none, Failed, Some(OutputMissing));
}

// IAM-09: no encode is made for a bucket that refuses; hotcell's own store never ends a job so.
#[test]
fn iam_09_a_tenant_s_bucket_that_refuses_ends_its_job_and_the_own_store_does_not() {
    use RejectCode::{DestinationRefused, UploadFailed};
    let check = |destination: Option<&str>, state, ended: Option<RejectCode>, attempt| {
        let mut job = validated();
        job.request.destination = destination.map(|name| name.parse().unwrap());
        let refused = failed(DestinationRefused);
        let job = reported(given(job, 5), refused, seal(), false, at(9));
        assert_eq!((job.state, job.failure.map(|failure| failure.code)), (state, ended));
        let last = job.attempts.last().unwrap();
        assert_eq!(last.failure.as_ref().unwrap().code, attempt);
        assert!(job.outputs.is_empty());
    };
    check(Some("cdn"), EventKind::Failed, Some(DestinationRefused), DestinationRefused);
    check(None, EventKind::AttemptFailed, None, UploadFailed);
}

#[test]
fn the_last_error_is_in_the_end() {
    let job = exhausted(after(&[RejectCode::CellCrashed, RejectCode::LeaseLost]), at(3));
    let failure = job.failure.unwrap();
    assert_eq!((job.state, failure.code), (EventKind::Failed, RejectCode::AttemptsExhausted));
    assert!(failure.message.contains("2 attempts") && failure.message.contains("lease_lost"));
}

#[test]
fn an_input_in_quarantine_ends_its_job_with_the_code_that_it_has_now() {
    let crashed = failed(RejectCode::CellCrashed);
    let ended = reported(given(validated(), 5), crashed, seal(), true, at(9));
    assert_eq!(ended.state, EventKind::Failed);
    assert_eq!(ended.failure.unwrap().code, RejectCode::CellCrashed);
    let record = PoisonRecord::new(hotcell_schemas::Digest::of(b"x"), None);
    let waiting = validated();
    let ended = withheld(waiting.clone(), &record, at(9));
    assert!(waiting.state.may_become(ended.state));
    assert_eq!(ended.failure.unwrap().code, RejectCode::InputPoisoned);
}

#[test]
fn zt_11_a_job_that_another_version_planned_is_given_to_nobody_and_says_so() {
    assert_eq!(over(&validated(), at(9)), None);
    let mut job = validated();
    job.plan.as_mut().unwrap().argv.insert(0, "-report".to_owned());
    let ended = over(&job, at(9)).unwrap();
    let failure = ended.failure.unwrap();
    assert_eq!((ended.state, failure.code), (EventKind::Failed, RejectCode::RequestUnsupported));
    assert!(failure.message.contains("submit it again"));
    assert!(over(&Job { plan: None, ..job }, at(9)).is_some());
    let last = after(&[RejectCode::CellCrashed; 3]);
    assert_eq!(over(&last, at(9)), Some(exhausted(last.clone(), at(9))));
}

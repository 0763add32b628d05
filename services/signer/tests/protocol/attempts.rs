//! How attempts end: once, whatever is repeated; again, where another worker may do better; and at
//! last, always.

use crate::{
    job::{failed, report},
    rig::{Rig, eventually},
};
use futures::future::join_all;
use hotcell_schemas::{
    EventKind::{Assigned, AttemptFailed, Encoded, Failed, Submitted, Validated},
    RejectCode,
    limits::LEASE_SECS,
    reject::Failure,
    work::{BeatReply, DoneReply, Stop},
};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_reports_at_once_are_one_encoded_event() {
    let rig = Rig::start().await;
    let worker = rig.worker("w1", "cpu").await;
    for same in [true, false] {
        let job = rig.validated("acme", "cpu").await;
        let order = worker.order().await;
        let tag = |index: usize| if same { "same".to_owned() } else { index.to_string() };
        let dones = (0..8).map(|index| worker.done(&order, report(&tag(index))));
        let replies = join_all(dones).await;
        assert_eq!(rig.states(&job).await, [Submitted, Validated, Assigned, Encoded]);
        let state = rig.state(&job).await;
        let kept = state.attempts[0].report.clone().unwrap().provenance.ffmpeg;
        // Who is told that its report counts reads it in the history.
        for (index, reply) in replies.into_iter().enumerate() {
            let counts = tag(index) == kept;
            let expected = if counts { DoneReply::Accepted } else { refused(Stop::LeaseLost) };
            assert_eq!(reply, expected, "report {index}, kept {kept}");
        }
        // A repeat whose answer was lost is accepted, another report is not.
        assert_eq!(worker.done(&order, report(&kept)).await, DoneReply::Accepted);
        assert_eq!(worker.done(&order, report("new")).await, refused(Stop::LeaseLost));
        assert_eq!(state.outputs.len(), 1);
        assert!(state.attempts[0].seal.as_ref().unwrap().key == worker.bus.public_key());
        eventually(|| async { (rig.ack_pending("acme", "cpu").await == 0).then_some(()) }).await;
    }
}

fn refused(reason: Stop) -> DoneReply {
    DoneReply::Refused { reason }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retryable_failure_is_offered_again_and_the_third_is_the_last() {
    let rig = Rig::start().await;
    let workers = [rig.worker("w1", "cpu").await, rig.worker("w2", "cpu").await];
    let job = rig.validated("acme", "cpu").await;
    for attempt in 1..=3 {
        let worker = &workers[attempt % 2];
        let order = worker.order().await;
        assert_eq!((&order.job, order.attempt), (&job.id, u32::try_from(attempt).unwrap()));
        let reply = worker.done(&order, failed(RejectCode::DownloadFailed)).await;
        assert_eq!(reply, DoneReply::Accepted);
    }
    let ended = rig.state(&job).await;
    assert_eq!(ended.failure.as_ref().unwrap().code, RejectCode::AttemptsExhausted);
    assert_eq!(
        rig.states(&job).await,
        [Submitted, Validated, Assigned, AttemptFailed, Assigned, AttemptFailed, Assigned, Failed]
    );
    eventually(|| async { (rig.ack_pending("acme", "cpu").await == 0).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_of_the_input_is_not_tried_again() {
    let rig = Rig::start().await;
    let worker = rig.worker("w1", "cpu").await;
    let job = rig.validated("acme", "cpu").await;
    let order = worker.order().await;
    worker.done(&order, failed(RejectCode::EncodeFailed)).await;
    assert_eq!(rig.states(&job).await, [Submitted, Validated, Assigned, Failed]);
    // A report without the planned files is a failure, too.
    let job = rig.validated("acme", "cpu").await;
    let order = worker.order().await;
    let mut empty = report("no files");
    empty.files.clear();
    worker.done(&order, empty).await;
    let code = rig.state(&job).await.failure.unwrap().code;
    assert_eq!(code, RejectCode::OutputMissing);
}

// A worker that is stopped gives the job back, and costs it nothing. A worker that does so for
// ever, with the longest reports that the broker lets it send, does not keep the job from ending.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_workers_cost_no_attempt_but_a_job_always_ends() {
    let rig = Rig::start().await;
    let worker = rig.worker("w1", "cpu").await;
    let job = rig.validated("acme", "cpu").await;
    let longest = || {
        let mut report = failed(RejectCode::WorkerStopped);
        report.failure =
            Some(Failure { code: RejectCode::WorkerStopped, message: "m".repeat(14_000) });
        report.provenance.ffmpeg = "v".repeat(14_000);
        report
    };
    for attempt in 1..=10 {
        let order = worker.order().await;
        assert_eq!((&order.job, order.attempt), (&job.id, attempt));
        assert_eq!(worker.done(&order, longest()).await, DoneReply::Accepted, "{attempt}");
    }
    let ended = rig.state(&job).await;
    assert_eq!((ended.state, ended.attempts.len()), (Failed, 10));
    assert_eq!(ended.failure.unwrap().code, RejectCode::AttemptsExhausted);
    eventually(|| async { (rig.ack_pending("acme", "cpu").await == 0).then_some(()) }).await;
}

// The broker is made to deliver again each second, so that only the lease's own 20 s decide.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_stops_beating_loses_its_job_to_another() {
    let rig = Rig::start().await;
    rig.impatient("acme", "cpu", Duration::from_secs(1)).await;
    let (w1, w2) = (rig.worker("w1", "cpu").await, rig.worker("w2", "cpu").await);
    let job = rig.validated("acme", "cpu").await;
    let lost = w1.order().await;
    let order = w2.order().await;
    assert_eq!((&order.job, order.attempt), (&job.id, 2));
    let state = rig.state(&job).await;
    let (first, second) = (&state.attempts[0], &state.attempts[1]);
    assert_eq!(first.failure.as_ref().unwrap().code, RejectCode::LeaseLost);
    let held_ms = second.assigned_at.since_ms(first.assigned_at);
    assert!(held_ms >= u64::from(LEASE_SECS) * 1000, "after {held_ms} ms");
    // The fenced worker's words count no more.
    let gone = Stop::LeaseLost;
    assert_eq!(w1.beat(&lost.lease).await, BeatReply::Stop { reason: gone });
    assert_eq!(w1.done(&lost, report("late")).await, refused(gone));
    assert_eq!(w2.done(&order, report("ok")).await, DoneReply::Accepted);
    assert_eq!(rig.states(&job).await, [Submitted, Validated, Assigned, Assigned, Encoded]);
    assert!(rig.state(&job).await.outputs[0].key.as_str().contains("/out/2/"));
}

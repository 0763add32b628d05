//! What work costs its tenant: what its cells used, by their reports; when it is cancelled nothing
//! before a worker has it, and the worker's time after.

use crate::{
    fair::{costly, many, served, weighted},
    job::{failed, made, report},
    rig::{Rig, eventually, once},
};
use hotcell_schemas::{
    EventKind, Job, RejectCode, Role, UnixMs,
    tenancy::UsageRecord,
    work::{DoneReply, Stop, UrlsReply},
};
use hotcell_stage::{Outgoing, clock};
use std::time::Duration;

async fn usage(rig: &Rig, tenant: &str) -> UsageRecord {
    let key = UsageRecord::key(&tenant.parse().unwrap(), clock::now());
    let bucket = rig.intake.bucket("usage");
    bucket.get::<UsageRecord>(&key).await.unwrap().map(|entry| entry.value).unwrap_or_default()
}

/// Moves an encoded job on, as the hasher would.
async fn complete(rig: &Rig, job: &Job) {
    let hasher = rig.service(Role::Hasher).await;
    let stored = rig.intake.job(&job.tenant, &job.id).await.unwrap().unwrap();
    let (seq, job) = (stored.seq, stored.message.into_inner());
    let job = job.moved(EventKind::Completed, clock::now());
    hasher.publish(&Outgoing::job(job, seq)).await.unwrap();
}

// NEW-14: every attempt with a report is counted once, by two replicas, also when every event is
// delivered again; a lease that was lost costs nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_14_what_attempts_cost_is_counted_once() {
    let mut rig = Rig::start().await;
    rig.signer();
    let worker = rig.worker("w1", "cpu").await;
    let (mut cpu_ms, mut attempts, mut completed) = (0, 0, 0);
    for round in 0..12_u64 {
        let job = rig.validated("acme", "cpu").await;
        let order = worker.order().await;
        let cost = 100 + round;
        let said = if round % 3 == 0 { failed(RejectCode::EncodeFailed) } else { report("ok") };
        assert_eq!(worker.done(&order, costly(said, cost)).await, DoneReply::Accepted);
        if round % 3 != 0 {
            complete(&rig, &job).await;
            completed += 1;
        }
        (cpu_ms, attempts) = (cpu_ms + cost, attempts + 1);
    }
    // An attempt that is made again costs what both used.
    let job = rig.validated("acme", "cpu").await;
    let order = worker.order().await;
    let again = costly(failed(RejectCode::DownloadFailed), 1_000);
    assert_eq!(worker.done(&order, again).await, DoneReply::Accepted);
    let order = worker.order().await;
    assert_eq!(order.job, job.id);
    assert_eq!(worker.done(&order, costly(report("ok"), 2_000)).await, DoneReply::Accepted);
    complete(&rig, &job).await;
    (cpu_ms, attempts, completed) = (cpu_ms + 3_000, attempts + 2, completed + 1);
    // A worker that lies is believed up to what the plan lets its cells use.
    let job = rig.validated("acme", "cpu").await;
    let order = worker.order().await;
    assert_eq!(worker.done(&order, costly(report("ok"), u64::MAX / 4)).await, DoneReply::Accepted);
    complete(&rig, &job).await;
    (cpu_ms, attempts, completed) = (cpu_ms + 80_000, attempts + 1, completed + 1);

    let whole = |it: &UsageRecord| (it.cpu_ms, it.attempts, it.completed);
    let expect = (cpu_ms, attempts, completed);
    let counted = eventually(|| async {
        let now = usage(&rig, "acme").await;
        (whole(&now) >= expect).then_some(now)
    });
    let counted = counted.await;
    assert_eq!(whole(&counted), expect);
    assert!(counted.at > UnixMs(0));

    // Everything again, to either of the two.
    let (from, marker) = (rig.deliver_again("meter").await, rig.validated("bolt", "cpu").await);
    let order = worker.order().await;
    assert_eq!(worker.done(&order, costly(report("ok"), 7)).await, DoneReply::Accepted);
    complete(&rig, &marker).await;
    // Events come in order, so when the last one is counted all before it were looked at.
    eventually(|| async { (usage(&rig, "bolt").await.completed == 1).then_some(()) }).await;
    assert!(rig.seen("meter").await >= from, "nothing was delivered again");
    assert_eq!(usage(&rig, "acme").await, counted);
}

/// Ends a job as its tenant would.
async fn cancel(rig: &Rig, job: &Job) {
    let stored = rig.intake.job(&job.tenant, &job.id).await.unwrap().unwrap();
    let (seq, job) = (stored.seq, stored.message.into_inner());
    let job = job.moved(EventKind::Cancelled, clock::now());
    rig.intake.publish(&Outgoing::job(job, seq)).await.unwrap();
}

// BRK-80: a tenant that lets its jobs run and ends them before they report has used the workers all
// the same: its turns do not become free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brk_80_a_job_that_is_cancelled_while_it_runs_is_no_free_turn() {
    once(|| unreported(End::Cancelled)).await;
}

// BRK-80, BRK-81: nor by a policy of its own that refuses what was made before it is reported.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brk_80_a_job_whose_outputs_its_policy_refuses_is_no_free_turn() {
    once(|| unreported(End::Refused)).await;
}

/// How a tenant ends its own job before a worker reports.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Cancelled,
    Refused,
}

/// No output of acme's may be stored.
const UNPUBLISHED: &str = "@id(\"never\") @about(\"x\") forbid (principal, \
     action == Hotcell::Action::\"PublishOutput\", resource);";

async fn unreported(how: End) -> Result<(), String> {
    const JOB_MS: u64 = 100;
    let mut rig = Rig::without_signer().await;
    for tenant in ["acme", "bolt"] {
        weighted(&rig, tenant, 10).await;
    }
    if how == End::Refused {
        rig.policies(UNPUBLISHED).await;
    }
    rig.signer();
    let worker = rig.worker("w1", "cpu").await;
    let flood = many(&rig, "acme", 60).await;
    many(&rig, "bolt", 60).await;
    let mut turns = (0, 0);
    for _ in 0..40 {
        let order = worker.order().await;
        tokio::time::sleep(Duration::from_millis(JOB_MS)).await;
        if let Some(own) = flood.iter().find(|job| job.id == order.job) {
            turns.0 += 1;
            if how == End::Cancelled {
                cancel(&rig, own).await;
            } else {
                let urls = worker.urls(&order.lease, vec![made()], None).await;
                let stopped = matches!(urls, UrlsReply::Refused { reason: Stop::Cancelled });
                assert!(stopped, "{urls:?}");
            }
        } else {
            turns.1 += 1;
            let report = costly(report("ok"), JOB_MS);
            assert_eq!(worker.done(&order, report).await, DoneReply::Accepted);
        }
    }
    // Half of them each, or fewer where this machine stood still in one: its time was held as well.
    // Were they free, all of the flood's forty would come first.
    if !(3..=26).contains(&turns.0) {
        return Err(format!("{turns:?}"));
    }
    // Nor is the month's CPU time: for as long as it held its worker.
    eventually(|| async {
        let used = usage(&rig, "acme").await;
        (used.attempts == turns.0 && used.cpu_ms >= turns.0 * JOB_MS).then_some(())
    })
    .await;
    Ok(())
}

// BRK-80: what never reached a worker costs nothing, also when the dispatcher had it in hand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_are_cancelled_while_they_wait_cost_no_turn() {
    once(cancelled_waiting).await;
}

async fn cancelled_waiting() -> Result<(), String> {
    let mut rig = Rig::without_signer().await;
    for tenant in ["acme", "bolt"] {
        weighted(&rig, tenant, 10).await;
    }
    for job in many(&rig, "acme", 60).await {
        cancel(&rig, &job).await;
    }
    rig.signer();
    many(&rig, "bolt", 80).await;
    served(&rig, 30, |_| 2_000).await;
    many(&rig, "acme", 60).await;
    let served = served(&rig, 40, |_| 2_000).await;
    // It was idle while the other was served thirty times, so its credit goes first.
    let first = served.get("acme").is_some_and(|acme| *acme >= 24);
    first.then_some(()).ok_or(format!("{served:?}"))
}

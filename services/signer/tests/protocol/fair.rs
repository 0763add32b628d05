//! Turns, caps, replicas, and deliveries that come twice.

use crate::{
    job::report,
    rig::{Rig, eventually},
    worker::{Worker, request},
};
use futures::future::join_all;
use hotcell_schemas::{
    EventKind::{Assigned, Encoded, Submitted, Validated},
    Job, JobId,
    work::{DoneReply, NextReply},
};
use std::{collections::BTreeMap, time::Duration};
use tokio::time::timeout;

async fn many(rig: &Rig, tenant: &str, count: usize) -> Vec<Job> {
    let mut jobs = Vec::new();
    for _ in 0..count {
        jobs.push(rig.validated(tenant, "cpu").await);
    }
    jobs
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_tenants_are_served_in_turn() {
    let rig = Rig::start().await;
    let worker = rig.worker("w1", "cpu").await;
    let acme = many(&rig, "acme", 12).await;
    many(&rig, "bolt", 12).await;
    let of_acme = |job: &JobId| acme.iter().any(|other| other.id == *job);
    let (mut lead, mut most) = (0_i32, 0);
    for _ in 0..16 {
        let order = worker.order().await;
        lead += if of_acme(&order.job) { 1 } else { -1 };
        most = most.max(lead.abs());
    }
    assert!(most <= 2, "one tenant was {most} ahead although both had work");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_cap_nothing_more_is_given_until_one_is_done() {
    let mut rig = Rig::without_signer().await;
    rig.tenant("acme", 2).await;
    rig.signer();
    let worker = rig.worker("w1", "cpu").await;
    let jobs = many(&rig, "acme", 3).await;
    let first = worker.order().await;
    let _second = worker.order().await;
    let asked = request();
    let mut third = Box::pin(worker.next(&asked));
    // Long enough for every tenant to be asked at least once.
    assert!(timeout(Duration::from_millis(1500), &mut third).await.is_err());
    assert_eq!(rig.ack_pending("acme", "cpu").await, 2);
    assert_eq!(worker.done(&first, report("ok")).await, DoneReply::Accepted);
    let NextReply::Order { order } = third.await else { panic!("no order") };
    assert!(jobs.iter().any(|job| job.id == order.job) && order.job != first.job);
}

/// Takes and finishes `count` orders.
async fn work(worker: Worker, count: usize) {
    for _ in 0..count {
        let order = worker.order().await;
        assert_eq!(worker.done(&order, report("ok")).await, DoneReply::Accepted);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_signers_assign_each_job_once() {
    const JOBS: usize = 80;
    let mut rig = Rig::start().await;
    rig.signer();
    let jobs = many(&rig, "acme", JOBS).await;
    let mut crew = Vec::new();
    for name in ["w1", "w2", "w3", "w4"] {
        crew.push(rig.worker(name, "cpu").await);
    }
    join_all(crew.into_iter().map(|worker| work(worker, JOBS / 4))).await;
    let mut histories: BTreeMap<JobId, Vec<_>> = BTreeMap::new();
    for (id, state) in rig.job_states().await {
        histories.entry(id).or_default().push(state);
    }
    for job in jobs {
        assert_eq!(histories[&job.id], [Submitted, Validated, Assigned, Encoded], "{}", job.id);
    }
}

// The broker may deliver again while the lease is alive; that is no second assignment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_delivery_during_a_lease_is_not_a_second_attempt() {
    let rig = Rig::start().await;
    rig.impatient("acme", "cpu", Duration::from_secs(1)).await;
    let (w1, w2) = (rig.worker("w1", "cpu").await, rig.worker("w2", "cpu").await);
    let job = rig.validated("acme", "cpu").await;
    let order = w1.order().await;
    let asked = request();
    let mut other = Box::pin(w2.next(&asked));
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while rig.deliveries("acme", "cpu").await < 3 {
        assert!(std::time::Instant::now() < deadline, "no delivery was repeated");
        assert!(timeout(Duration::from_millis(50), &mut other).await.is_err());
    }
    assert_eq!(w1.done(&order, report("ok")).await, DoneReply::Accepted);
    assert_eq!(rig.states(&job).await, [Submitted, Validated, Assigned, Encoded]);
    eventually(|| async { (rig.ack_pending("acme", "cpu").await == 0).then_some(()) }).await;
}

// Tenants without work do not delay one that has some.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_tenants_do_not_delay_work() {
    const TENANTS: usize = 60;
    const JOBS: u32 = 10;
    let rig = Rig::start().await;
    for index in 0..TENANTS {
        rig.tenant(&format!("idle-{index}"), 4).await;
    }
    let worker = rig.worker("w1", "cpu").await;
    // The first order comes when the signer has learnt of its tenants.
    rig.validated("acme", "cpu").await;
    let order = worker.order().await;
    worker.done(&order, report("ok")).await;
    let mut waited = Vec::new();
    for _ in 0..JOBS {
        let asked = request();
        let next = worker.next(&asked);
        tokio::pin!(next);
        // The worker waits while the signer asks around.
        assert!(timeout(Duration::from_millis(1100), &mut next).await.is_err());
        let since = std::time::Instant::now();
        rig.validated("acme", "cpu").await;
        let NextReply::Order { order } = next.await else { panic!("no order") };
        waited.push(since.elapsed());
        worker.done(&order, report("ok")).await;
    }
    waited.sort_unstable();
    println!("from publish to order: {waited:?}");
    // Asking all of them, one after another, takes seconds.
    assert!(waited[5] < Duration::from_millis(500), "{waited:?}");
}

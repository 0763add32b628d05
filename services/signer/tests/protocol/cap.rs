//! The cap of a tenant over all of its priority classes.

use crate::{
    fair::ready,
    job::report,
    rig::{Rig, eventually},
};
use hotcell_schemas::{
    tenancy::Priority,
    work::{BeatReply, DoneReply},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::task::JoinSet;

// The cap is over all classes together, also when two signers serve them at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cap_holds_over_all_classes_and_two_signers() {
    const CAP: usize = 2;
    const JOBS: usize = 36;
    let mut rig = Rig::without_signer().await;
    rig.tenant("acme", u32::try_from(CAP).unwrap()).await;
    rig.signer();
    rig.signer();
    let (out, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (done, mut crew) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
    for name in ["w1", "w2", "w3", "w4"] {
        let worker = rig.worker(name, "cpu").await;
        let (out, most, done) = (Arc::clone(&out), Arc::clone(&most), Arc::clone(&done));
        crew.spawn(async move {
            loop {
                let order = worker.order().await;
                let now = out.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(now, Ordering::SeqCst);
                // The first two are held until both are out, however long the second takes.
                eventually(|| async { (most.load(Ordering::SeqCst) >= CAP).then_some(()) }).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
                // Before the report: with it the next may be given out.
                out.fetch_sub(1, Ordering::SeqCst);
                assert_eq!(worker.done(&order, report("ok")).await, DoneReply::Accepted);
                done.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    // Two of one class fill it: nothing was given back yet that would count as out.
    for _ in 0..CAP {
        ready(&rig, "acme", "cpu", Priority::High).await;
    }
    eventually(|| async { (most.load(Ordering::SeqCst) >= CAP).then_some(()) }).await;
    for index in CAP..JOBS {
        ready(&rig, "acme", "cpu", Priority::ALL[index % 3]).await;
    }
    eventually(|| async { (done.load(Ordering::SeqCst) == JOBS).then_some(()) }).await;
    assert_eq!(most.load(Ordering::SeqCst), CAP, "jobs out at once; the cap is {CAP}");
}

// BRK-80: jobs of `normal` that found the cap reached take its first free place, while one of `high`
// is still out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brk_80_a_place_under_the_cap_goes_to_a_normal_job_while_a_high_one_runs() {
    let mut rig = Rig::without_signer().await;
    rig.tenant("acme", 2).await;
    rig.signer();
    let (first, second) = (rig.worker("w1", "cpu").await, rig.worker("w2", "cpu").await);
    ready(&rig, "acme", "cpu", Priority::High).await;
    let ends = first.order().await;
    ready(&rig, "acme", "cpu", Priority::High).await;
    let mut lease = second.order().await.lease;
    for _ in 0..4 {
        ready(&rig, "acme", "cpu", Priority::Normal).await;
    }
    // The cap is reached: who asks meanwhile gets nothing, and what it was to get is given back.
    let mut waiting = JoinSet::new();
    for name in ["w3", "w4"] {
        let worker = rig.worker(name, "cpu").await;
        waiting.spawn(async move { (worker.order().await.job, worker) });
    }
    eventually(|| async { (rig.ack_pending("acme", "cpu").await == 2).then_some(()) }).await;
    assert_eq!(first.done(&ends, report("ok")).await, DoneReply::Accepted);
    for beat in 0.. {
        tokio::select! {
            given = waiting.join_next() => return drop(given.unwrap().unwrap()),
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        assert!(beat < 60, "the place stays empty");
        let BeatReply::GoOn { lease: renewed, .. } = second.beat(&lease).await else {
            panic!("the other job is out no more")
        };
        lease = renewed;
    }
}

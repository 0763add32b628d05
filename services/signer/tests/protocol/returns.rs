//! Work that comes back by itself: no event says so, so the dispatcher has to look.

use crate::{
    fair::{many, ready},
    job::{failed, report},
    rig::Rig,
};
use hotcell_schemas::{
    RejectCode, Role,
    records::TenantRecord,
    tenancy::{Priority, TenantState},
    work::DoneReply,
};
use std::time::Duration;
use tokio::{task::JoinSet, time::Instant};

/// The delay before the next attempt and a sweep are two seconds, in which ten orders are given here;
/// behind class `normal` it would come after all of them.
const BETWEEN_MAX: usize = 40;

/// A round of all tenants in all classes is 1.5 s; one that is never asked waits for ever.
const ROUND_MAX: Duration = Duration::from_secs(30);

/// A tenant that is served again has its work within a second or two.
const SERVED_MAX: Duration = Duration::from_millis(2500);

/// Measures of one such wait: that one of them is good is no accident, that one is bad may be a
/// machine that stood still.
const TRIES: usize = 3;

// BRK-80: a job of class `high` that failed waited for all of class `normal` to be done, because
// nothing asked for its class while another one had work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brk_80_a_high_job_that_comes_back_goes_before_what_waits() {
    let rig = Rig::start().await;
    let worker = rig.worker("w1", "cpu").await;
    many(&rig, "acme", 80).await;
    let urgent = ready(&rig, "acme", "cpu", Priority::High).await;
    let mut between = None;
    for _ in 0..81 {
        let order = worker.order().await;
        if order.job != urgent.id {
            between = between.map(|count: usize| count + 1);
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(worker.done(&order, report("ok")).await, DoneReply::Accepted);
            // The end is heard before the worker asks again: no accident keeps the class in mind.
            tokio::time::sleep(Duration::from_millis(100)).await;
        } else if order.attempt == 1 {
            let report = failed(RejectCode::DownloadFailed);
            assert_eq!(worker.done(&order, report).await, DoneReply::Accepted);
            between = Some(0);
        } else {
            let between = between.unwrap();
            println!("the second attempt came after {between} orders");
            assert!(between < BETWEEN_MAX, "it waited behind {between} of class normal");
            return;
        }
    }
    panic!("no second attempt while others waited");
}

// With many tenants a round of questions takes longer than the time between two rounds: the last
// ones were never asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_of_many_tenants_is_looked_at_too() {
    const TENANTS: usize = 160;
    let mut rig = Rig::without_signer().await;
    for index in 0..TENANTS {
        rig.tenant(&format!("t{index:03}"), 4).await;
    }
    rig.signer();
    let worker = rig.worker("w1", "cpu").await;
    for tenant in ["t000", "t159"] {
        let job = rig.validated(tenant, "cpu").await;
        let order = worker.order().await;
        assert_eq!(order.job, job.id);
        let lost = failed(RejectCode::DownloadFailed);
        assert_eq!(worker.done(&order, lost).await, DoneReply::Accepted);
        let since = Instant::now();
        let again = worker.order().await;
        assert_eq!((&again.job, again.attempt), (&job.id, 2));
        println!("{tenant}: the second attempt came after {:?}", since.elapsed());
        assert!(since.elapsed() < ROUND_MAX, "{tenant} waited {:?}", since.elapsed());
        assert_eq!(worker.done(&again, report("ok")).await, DoneReply::Accepted);
    }
}

// A job that was taken for a tenant that had just been suspended was kept back for seconds after its
// return.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_s_work_is_given_out_as_soon_as_it_is_served_again() {
    let rig = Rig::start().await;
    let worker = rig.worker("w1", "cpu").await;
    let first = rig.validated("acme", "cpu").await;
    assert_eq!(worker.order().await.job, first.id);
    let tenants = rig.service(Role::Provisioner).await.bucket("tenants");
    let state = async |state| {
        let entry = tenants.get::<TenantRecord>("acme").await.unwrap().unwrap();
        let record = TenantRecord { state, ..entry.value };
        tenants.update("acme", &record, entry.revision).await.unwrap();
    };
    let waited = async |away_ms: u64| {
        state(TenantState::Suspended).await;
        let job = rig.validated("acme", "cpu").await;
        let asking = worker.clone();
        let mut waiting = JoinSet::new();
        waiting.spawn(async move { asking.order().await });
        tokio::time::sleep(Duration::from_millis(away_ms)).await;
        assert!(waiting.try_join_next().is_none(), "a suspended tenant's job was given out");
        state(TenantState::Active).await;
        let since = Instant::now();
        assert_eq!(waiting.join_next().await.unwrap().unwrap().job, job.id);
        println!("away for {away_ms} ms: {:?} after its return", since.elapsed());
        since.elapsed()
    };
    // Once it is in hand when the tenant returns, once it was never asked for.
    for away_ms in [300, 1800, 3300] {
        let mut best = Duration::MAX;
        for _ in 0..TRIES {
            best = best.min(waited(away_ms).await);
            if best < SERVED_MAX {
                break;
            }
        }
        assert!(best < SERVED_MAX, "away for {away_ms} ms: {best:?}");
    }
}

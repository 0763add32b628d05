//! Work stays in its pool, tenants in theirs, and who is no worker gets none; what becomes of a
//! tenant that is suspended or removed while it has work.

use crate::{
    rig::{Rig, eventually},
    worker::request,
};
use futures::future;
use hotcell_nats_config::TenantSpec;
use hotcell_schemas::{EventKind, Job, work::NextReply};
use hotcell_stage::{AskError, clock};
use std::{pin::pin, time::Duration};
use tokio::time::timeout;

/// Time in which a worker that may have a job would have got it: others get theirs in 10 ms.
const QUIET: Duration = Duration::from_millis(700);

// BRK-79: a tenant whose only pool is its own runs there, and nobody else does; a job that names
// another pool than its tenant's is given to nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brk_79_a_dedicated_pool_is_its_tenant_s_alone() {
    let mut rig = Rig::without_signer().await;
    let spec = |tenant: &str, pool: &str| {
        TenantSpec::new(tenant.parse().unwrap(), vec![pool.parse().unwrap()])
    };
    for (tenant, pool) in [("acme", "cpu"), ("bolt", "gpu")] {
        let user = "app".parse().unwrap();
        rig.admin.add_tenant(&spec(tenant, pool), &user, clock::now()).await.unwrap();
    }
    rig.signer();
    let (cpu, gpu) = (rig.worker("w1", "cpu").await, rig.worker("g1", "gpu").await);
    let own = rig.validated("bolt", "gpu").await;
    let strays = [rig.validated("bolt", "cpu").await, rig.validated("acme", "gpu").await];
    assert_eq!(gpu.order().await.job, own.id);
    let (mut cpu, mut gpu) = (pin!(cpu.order()), pin!(gpu.order()));
    assert!(timeout(QUIET, future::select(cpu.as_mut(), gpu.as_mut())).await.is_err());
    let acmes = rig.validated("acme", "cpu").await;
    assert_eq!(cpu.await.job, acmes.id);
    for stray in strays {
        assert_eq!(rig.states(&stray).await.last(), Some(&EventKind::Validated));
    }
}

// BRK-13, BRK-10: a login for one pool opens no other, whatever its holder asks; nothing is
// assigned.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brk_13_a_worker_s_login_opens_its_own_pool_only() {
    let rig = Rig::start().await;
    let job = rig.validated("acme", "gpu").await;
    let stranger = rig.worker("w1", "gpu").await;
    let subject = hotcell_schemas::Subject::next(&"gpu".parse().unwrap(), &stranger.name);
    let asked = stranger.bus.ask::<_, NextReply>(subject, &request(), Duration::from_secs(1)).await;
    assert!(matches!(asked, Err(AskError::TimedOut)), "{asked:?}");
    assert_eq!(rig.states(&job).await.last(), Some(&EventKind::Validated));
    assert_eq!(rig.worker("g1", "gpu").await.order().await.job, job.id);
}

async fn ends(rig: &Rig, job: &Job, state: EventKind) {
    eventually(|| async { (rig.states(job).await.last() == Some(&state)).then_some(()) }).await;
}

// A suspended tenant's waiting work is given to nobody, and is there when it is resumed. A removed
// one's is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_is_not_served_gets_no_worker() {
    let rig = Rig::start().await;
    let (acme, worker) = ("acme".parse().unwrap(), rig.worker("w1", "cpu").await);
    rig.admin.suspend_tenant(&acme, clock::now()).await.unwrap();
    let waits = rig.validated("acme", "cpu").await;
    let bolts = rig.validated("bolt", "cpu").await;
    assert_eq!(worker.order().await.job, bolts.id);
    let mut asks = pin!(worker.order());
    assert!(timeout(3 * QUIET, asks.as_mut()).await.is_err(), "a suspended tenant's work");
    rig.admin.resume_tenant(&acme, clock::now()).await.unwrap();
    assert_eq!(asks.await.job, waits.id);

    let (runs, later) = (waits, rig.validated("acme", "cpu").await);
    let removed = rig.admin.remove_tenant(&acme, clock::now()).await.unwrap();
    assert_eq!(removed.jobs_cancelled, 2);
    ends(&rig, &runs, EventKind::Cancelled).await;
    ends(&rig, &later, EventKind::Cancelled).await;
    assert!(timeout(QUIET, worker.order()).await.is_err(), "a removed tenant's work");
}

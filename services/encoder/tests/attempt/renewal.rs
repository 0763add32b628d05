//! A worker whose login ends while it encodes (IAM-02): the job does not notice.

use crate::site::{DEADLINE, Site};
use hotcell_nats_config::{Login, creds, testing::short_life};
use hotcell_schemas::Role;
use hotcell_stage::{Bus, clock};
use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// Life of the login, in seconds: an encode of nine sees three ends of it.
const LIFE_SECS: u64 = 3;

// IAM-02, IAM-03: one job runs through two renewals and more, has one report, and its lease is
// beaten on after each.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_job_survives_the_ends_of_its_worker_s_login() {
    let (site, _programs) = Site::with_stub(9000).await;
    let login = Login::Worker { name: "w1".parse().unwrap(), pools: vec!["cpu".parse().unwrap()] };
    let installation = site.server.installation().unwrap();
    let life = short_life(LIFE_SECS);
    installation.renew(&login, life, clock::now()).unwrap();
    let mut agent = JoinSet::new();
    agent.spawn(async move {
        loop {
            let path = installation.creds_path(&login);
            let claims = creds::read(&path).unwrap().claims;
            if creds::is_due(&claims, life, clock::now()) {
                creds::renew(&path, &installation.keys().workers, life, clock::now()).unwrap();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    // Another connection with the same file: its login ends when the worker's does.
    let deadline = Instant::now() + DEADLINE;
    let beside = loop {
        match Bus::connect(Role::Encoder, &site.config.nats).await {
            Ok(bus) => break bus,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    };
    site.order(b"input", |_| {});
    let report = site.work(site.report()).await;
    assert_eq!((report.attempt, &report.report.failure), (1, &None));
    // Said again, if at all, by a worker whose login ended before it had the answer.
    assert!(site.seen.lock().unwrap().done.iter().all(|again| *again == report));
    let connects = || beside.client().statistics().connects.load(Ordering::Relaxed);
    // It may be waiting to come again.
    while connects() < 3 {
        assert!(Instant::now() < deadline, "{} connects", connects());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

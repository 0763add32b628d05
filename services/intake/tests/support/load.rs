//! Callers that go on while a test does something else, and what came of their calls.

use crate::world::{World, until};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// Callers, one for each credential and replica, each with a pause that stays under the limits.
pub(crate) struct Load {
    calls: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
    /// Milliseconds since the load's begin of the last call, by its begin, that succeeded.
    last_good_ms: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    began: Instant,
    parts: JoinSet<()>,
}

impl Load {
    pub(crate) fn on(world: &World, replicas: &[String], credentials: &[String]) -> Self {
        let mut load = Self {
            calls: Arc::default(),
            failed: Arc::default(),
            last_good_ms: Arc::default(),
            stop: Arc::default(),
            began: Instant::now(),
            parts: JoinSet::new(),
        };
        for base in replicas {
            for credential in credentials {
                let url = format!("{base}/v1/transcodes/0193a0f0c0de7000800000000000beef");
                let (client, credential) = (world.client.clone(), credential.clone());
                let (calls, failed) = (load.calls.clone(), load.failed.clone());
                let (good, stop, began) =
                    (load.last_good_ms.clone(), load.stop.clone(), load.began);
                load.parts.spawn(async move {
                    while !stop.load(Ordering::SeqCst) {
                        let at = usize::try_from(began.elapsed().as_millis()).unwrap();
                        let sent = client.get(&url).bearer_auth(&credential).send().await;
                        // 404: the credential was believed, and there is no such job.
                        if sent.is_ok_and(|answer| answer.status() == 404) {
                            good.fetch_max(at, Ordering::SeqCst);
                        } else {
                            failed.fetch_add(1, Ordering::SeqCst);
                        }
                        calls.fetch_add(1, Ordering::SeqCst);
                        tokio::time::sleep(Duration::from_millis(15)).await;
                    }
                });
            }
        }
        load
    }

    pub(crate) async fn until_calls(&self, more: usize) {
        let end = self.calls.load(Ordering::SeqCst) + more;
        until(|| async { (self.calls.load(Ordering::SeqCst) >= end).then_some(()) }).await;
    }

    pub(crate) async fn stop(mut self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        while self.parts.join_next().await.is_some() {}
        self.failed.load(Ordering::SeqCst)
    }

    /// Lets the load run until every call fails, for a second and a half after `at`; how long after
    /// `at` the last call began that succeeded.
    pub(crate) async fn until_dead(self, at: Instant) -> Duration {
        until(|| async { (at.elapsed() > Duration::from_millis(1500)).then_some(()) }).await;
        let (good, began) = (self.last_good_ms.clone(), self.began);
        self.stop().await;
        let last = Duration::from_millis(good.load(Ordering::SeqCst).try_into().unwrap());
        (began + last).saturating_duration_since(at)
    }
}

//! How each tenant's work stands, for `GET /v1/usage`: what runs, what waits, what is its due.
//!
//! Promises: running and waiting are the broker's own counts. The share and the waits are this
//! replica's view: of the tenants that it saw at work in the last minute, and of the jobs that it
//! gave out. Refuses to name another tenant.

use super::Queues;
use crate::Signer;
use hotcell_schemas::{
    TenantId,
    records::{Refusal, TenantRecord},
    tenancy::Priority,
    usage::{QueueWait, UsageReply, UsageRequest, Waiting},
};
use hotcell_stage::Incoming;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;
use tracing::warn;

/// A tenant counts as at work for this long after its last job came or went, in seconds.
const BUSY_SECS: u64 = 60;

/// The last waits of a tenant that are kept: enough for a 95th percentile.
const WAITS_MAX: usize = 200;

/// Tenants that are remembered; those that were longest without work are forgotten first.
const TENANTS_MAX: usize = 10_000;

struct Standing {
    weight: u64,
    busy_at: Instant,
    /// Milliseconds, oldest first.
    waits: VecDeque<u64>,
}

/// What the dispatchers of this process saw.
#[derive(Default)]
pub(crate) struct Standings(Mutex<HashMap<TenantId, Standing>>);

impl Standings {
    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, Standing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tenant has work now.
    pub(super) fn busy(&self, tenant: &TenantId, weight: u64) {
        let (mut all, now) = (self.lock(), Instant::now());
        if let Some(standing) = all.get_mut(tenant) {
            (standing.weight, standing.busy_at) = (weight, now);
            return;
        }
        if all.len() >= TENANTS_MAX {
            all.retain(|_, standing| is_busy(standing, now));
        }
        if all.len() < TENANTS_MAX {
            let standing = Standing { weight, busy_at: now, waits: VecDeque::new() };
            all.insert(tenant.clone(), standing);
        }
    }

    /// One of its jobs got its first worker after so long.
    pub(super) fn waited(&self, tenant: &TenantId, ms: u64) {
        let mut all = self.lock();
        let Some(standing) = all.get_mut(tenant) else { return };
        if standing.waits.len() >= WAITS_MAX {
            standing.waits.pop_front();
        }
        standing.waits.push_back(ms);
    }

    fn share_permille(&self, tenant: &TenantId, weight: u64) -> u32 {
        let (all, now) = (self.lock(), Instant::now());
        let others =
            all.iter().filter(|(other, standing)| *other != tenant && is_busy(standing, now));
        let others: u64 = others.map(|(_, standing)| standing.weight).sum();
        let permille = (weight * 1000).checked_div(weight + others).unwrap_or(0);
        u32::try_from(permille).unwrap_or(0)
    }

    fn wait(&self, tenant: &TenantId) -> Option<QueueWait> {
        let mut waits: Vec<u64> = self.lock().get(tenant)?.waits.iter().copied().collect();
        waits.sort_unstable();
        let at = |percent: usize| {
            let rank = (waits.len() * percent).div_ceil(100).max(1);
            waits.get(rank - 1).copied()
        };
        let jobs = u32::try_from(waits.len()).unwrap_or(u32::MAX);
        Some(QueueWait { p50_ms: at(50)?, p95_ms: at(95)?, jobs })
    }
}

fn is_busy(standing: &Standing, now: Instant) -> bool {
    now.saturating_duration_since(standing.busy_at) < Duration::from_secs(BUSY_SECS)
}

impl Queues {
    async fn standing(&self, tenant: &TenantId) -> Option<UsageReply> {
        let record = self.bus.bucket("tenants").get::<TenantRecord>(tenant.as_str()).await;
        let record = record.inspect_err(|error| warn!(%error, "tenant not read")).ok()??.value;
        let (mut running, mut waiting) = (0, Waiting::default());
        for pool in &record.pools {
            for class in Priority::ALL {
                let state = self.state(pool, tenant, class).await?;
                running += state.num_ack_pending;
                *match class {
                    Priority::High => &mut waiting.high,
                    Priority::Normal => &mut waiting.normal,
                    Priority::Low => &mut waiting.low,
                } += state.num_pending;
            }
        }
        let weight = if record.state.is_active() { record.quotas.weight } else { 0 };
        Some(UsageReply {
            running,
            waiting,
            share_permille: self.standings.share_permille(tenant, u64::from(weight)),
            queue_wait: self.standings.wait(tenant),
        })
    }
}

/// Answers intake; no answer when the broker does not say.
pub(crate) async fn handle(signer: Arc<Signer>, incoming: Incoming) {
    let request = match incoming.open::<UsageRequest>() {
        Ok(request) => request.into_inner(),
        Err(error) => {
            signer.refused(Refusal::Envelope, incoming.subject(), &error.to_string()).await;
            return;
        }
    };
    if let Some(reply) = signer.queues.standing(&request.tenant).await {
        incoming.answer(&reply).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_of_those_at_work() {
        let standings = Standings::default();
        let (acme, bolt) = ("acme".parse().unwrap(), "bolt".parse().unwrap());
        assert_eq!(standings.share_permille(&acme, 10), 1000);
        standings.busy(&bolt, 30);
        assert_eq!(standings.share_permille(&acme, 10), 250);
        assert_eq!(standings.share_permille(&acme, 0), 0);
        standings.busy(&acme, 10);
        for ms in 1..=300 {
            standings.waited(&acme, ms);
        }
        let wait = standings.wait(&acme);
        assert_eq!(wait, Some(QueueWait { p50_ms: 200, p95_ms: 290, jobs: 200 }));
        assert_eq!(standings.wait(&bolt), None);
    }
}

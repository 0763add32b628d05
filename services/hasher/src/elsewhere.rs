//! Reads of tenants' own buckets, which may be slow, silent or hostile where hotcell's store is not.
//!
//! Promises: they have half the hands of this process at most, and one tenant a quarter of those;
//! each ends in a time that its size allows, and a bucket that gave nothing is left alone for as long
//! as it was waited for; so it is its own tenant that waits. Refuses to wait for ever: a job whose
//! bucket still gives nothing after [`PATIENCE_MS`] gets its verdict.

use hotcell_schemas::{DestinationName, EventKind, Job, TenantId, UnixMs};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A bucket that gave nothing is not asked again for as long as it was waited for, and at least so
/// long: one that refuses at once costs nobody a hand, and may be better at the next look.
const REST_MIN: Duration = Duration::from_secs(1);

/// After its job was encoded a bucket may be away for this long, in milliseconds: five minutes of the
/// jobs that a plan allows stay far below what the consumer may have pending.
const PATIENCE_MS: u64 = 300_000;

/// Time for one read, in seconds, and the rate of its bytes on top: those of the PUT that stored it.
const READ_SECS: u64 = 30;
const READ_BYTES_PER_SEC_MIN: u64 = 1 << 20;

/// Buckets that rest at once; beyond it the ones whose rest is over are forgotten first.
const RESTING_MAX: usize = 10_000;

/// One tenant has at most this part of the lanes, and one of few.
const SHARE: usize = 4;

type Place = (TenantId, DestinationName);

/// Lanes in use by tenant; who has none is not in it.
type Busy = Arc<Mutex<HashMap<TenantId, usize>>>;

/// A lane in use, until it is dropped.
pub(crate) struct Reading {
    tenant: TenantId,
    busy: Busy,
    _lane: OwnedSemaphorePermit,
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let left = busy.get(&self.tenant).copied().unwrap_or_default().saturating_sub(1);
        if left == 0 {
            busy.remove(&self.tenant);
        } else {
            busy.insert(self.tenant.clone(), left);
        }
    }
}

/// Whether an output may be read now.
pub(crate) enum Lane {
    /// It is in hotcell's own store.
    Store,
    /// It may, for as long as this is held.
    Open(Reading),
    /// As many are read as may be, of this tenant or of all.
    Full,
    /// Its bucket gave nothing a moment ago.
    Resting,
}

/// The reads of one process.
#[derive(Debug)]
pub(crate) struct Elsewhere {
    lanes: Arc<Semaphore>,
    share: usize,
    busy: Busy,
    resting: Mutex<HashMap<Place, Instant>>,
}

fn place(job: &Job) -> Option<Place> {
    Some((job.tenant.clone(), job.request.destination.clone()?))
}

impl Elsewhere {
    /// For a process with so many hands: half of them, and one of one.
    pub(crate) fn new(hands: usize) -> Self {
        let lanes = hands.div_euclid(2).max(1);
        let share = lanes.div_euclid(SHARE).max(1);
        let (busy, resting) = (Busy::default(), Mutex::default());
        Self { lanes: Arc::new(Semaphore::new(lanes)), share, busy, resting }
    }

    /// Where the job's outputs are, and whether they may be read.
    pub(crate) fn enter(&self, job: &Job) -> Lane {
        let Some(place) = place(job) else { return Lane::Store };
        let mut resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        match resting.get(&place) {
            Some(until) if Instant::now() < *until => return Lane::Resting,
            Some(_) => drop(resting.remove(&place)),
            None => {}
        }
        drop(resting);
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let used = busy.get(&job.tenant).copied().unwrap_or_default();
        if used >= self.share {
            return Lane::Full;
        }
        let Ok(lane) = Arc::clone(&self.lanes).try_acquire_owned() else { return Lane::Full };
        busy.insert(job.tenant.clone(), used + 1);
        drop(busy);
        let (tenant, busy) = (job.tenant.clone(), Arc::clone(&self.busy));
        Lane::Open(Reading { tenant, busy, _lane: lane })
    }

    /// The job's bucket gave nothing in so much time.
    pub(crate) fn rest(&self, job: &Job, waited: Duration) {
        let Some(place) = place(job) else { return };
        let (mut resting, now) =
            (self.resting.lock().unwrap_or_else(PoisonError::into_inner), Instant::now());
        if resting.len() >= RESTING_MAX {
            resting.retain(|_, until| now < *until);
        }
        if resting.len() < RESTING_MAX {
            resting.insert(place, now + waited.max(REST_MIN));
        }
    }
}

/// Longest read of an output of this size.
pub(crate) fn time(size: u64) -> Duration {
    Duration::from_secs(READ_SECS.saturating_add(size / READ_BYTES_PER_SEC_MIN))
}

/// Whether the job's bucket has been waited for long enough.
pub(crate) fn is_over(job: &Job, now: UnixMs) -> bool {
    is_older(job, PATIENCE_MS, now)
}

/// Whether the job was encoded longer ago than this.
pub(crate) fn is_older(job: &Job, ms: u64, now: UnixMs) -> bool {
    let encoded = job.stamps.iter().rev().find(|stamp| stamp.event == EventKind::Encoded);
    encoded.is_none_or(|stamp| now.since_ms(stamp.at) > ms)
}

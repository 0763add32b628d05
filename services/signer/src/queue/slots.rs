//! The cap of a tenant over all of its priority classes.
//!
//! The broker holds it within each class. Jobs of `high` and `low` are listed in a record besides,
//! written by compare-and-set before anything else is looked at. A job of `high` or `low` lists
//! itself and then counts those of `normal` that the broker has out; a job of `normal` is out
//! first, and then counts those that are listed. So of two that take the last place in the same
//! moment each sees the other, and never do both keep it.
//!
//! The broker counts a job that was given back as out until somebody takes it. A job of `normal`
//! that found the cap reached is therefore parked in the record, before it is given back, and is off
//! it again before whoever takes it next counts anything: otherwise those that wait would fill the
//! cap themselves, for as long as one job of another class is out.

use super::{Held, Queues, Task};
use futures::{StreamExt as _, stream};
use hotcell_schemas::{
    EventKind, JobId, PoolId, TenantId, UnixMs,
    tenancy::{Priority, Slot, SlotRecord},
};
use hotcell_stage::{clock, kv::KvError};
use tracing::warn;

/// Between the listing of a job and its `assigned` there are two reads and a write: after so many
/// milliseconds who listed it has died.
const TAKEN_MS_MAX: u64 = 15_000;

/// Jobs that are looked at side by side.
const READS_AT_ONCE: usize = 32;

/// Writes of one record that lose to another signer's before the job is given back.
const TRIES_MAX: u32 = 8;

fn key(pool: &PoolId, task: &Task) -> String {
    format!("{}.{pool}", task.tenant)
}

fn count<T>(of: &[T]) -> u64 {
    u64::try_from(of.len()).unwrap_or(u64::MAX)
}

impl Queues {
    /// Whether the job has room beside all others of its tenant in the pool.
    pub(super) async fn has_slot(
        &self,
        pool: &PoolId,
        task: &Task,
        class: Priority,
        cap: u64,
    ) -> Result<(), Held> {
        let key = key(pool, task);
        let listed = match class {
            Priority::Normal => None,
            Priority::High | Priority::Low => Some(self.list(&key, task, cap).await?),
        };
        // The broker first, then the record: what ends in between counts once too often, and never
        // is a job taken for parked that the broker no longer counts.
        let normal = self.state(pool, &task.tenant, Priority::Normal).await.ok_or(Held::Unread)?;
        let record = self.bus.bucket("slots").get::<SlotRecord>(&key).await;
        let record = record.map_err(unread)?.map(|entry| entry.value).unwrap_or_default();
        // One that cannot be read counts as the broker says.
        let parked = self.waiting(&task.tenant, record.parked, false).await;
        let others = match listed {
            Some(listed) => listed,
            None => self.out(&task.tenant, record.slots).await,
        };
        let normal = normal.num_ack_pending.saturating_sub(count(&parked));
        if count(&others).saturating_add(normal) <= cap {
            return Ok(());
        }
        match class {
            Priority::Normal => self.park(&key, task, cap).await,
            Priority::High | Priority::Low => self.unlist(&key, task).await,
        }
        Err(Held::Full)
    }

    /// Takes a job of `normal` off the parked ones; whether it was one of them.
    pub(super) async fn unpark(
        &self,
        pool: &PoolId,
        task: &Task,
        class: Priority,
    ) -> Result<bool, Held> {
        if !class.is_normal() {
            return Ok(false);
        }
        let (bucket, key) = (self.bus.bucket("slots"), key(pool, task));
        for _ in 0..TRIES_MAX {
            let found = bucket.get::<SlotRecord>(&key).await.map_err(unread)?;
            let Some(mut entry) = found else { return Ok(false) };
            let before = entry.value.parked.len();
            entry.value.parked.retain(|slot| slot.job != task.job);
            if entry.value.parked.len() == before {
                return Ok(false);
            }
            match bucket.update(&key, &entry.value, entry.revision).await {
                Ok(_) => return Ok(true),
                Err(KvError::Conflict) => {}
                Err(error) => return Err(unread(error)),
            }
        }
        Err(Held::Full)
    }

    /// Parks a job of `normal`. If that fails it counts as out until it is taken again.
    async fn park(&self, key: &str, task: &Task, cap: u64) {
        let bucket = self.bus.bucket("slots");
        for _ in 0..TRIES_MAX {
            let Ok((entry, revision)) = bucket.look::<SlotRecord>(key).await else { return };
            let mut record = entry.map(|entry| entry.value).unwrap_or_default();
            if count(&record.parked) >= cap {
                record.parked = self.waiting(&task.tenant, record.parked, true).await;
            }
            put(&mut record.parked, &task.job, clock::now());
            match bucket.update(key, &record, revision).await {
                Err(KvError::Conflict) => {}
                Ok(_) | Err(_) => return,
            }
        }
    }

    /// Where each of the jobs is, side by side: a cap may be a thousand.
    async fn phases(&self, tenant: &TenantId, listed: Vec<Slot>) -> Vec<(Slot, Phase)> {
        let look = |slot: Slot| async move {
            let phase = self.phase(tenant, &slot).await;
            (slot, phase)
        };
        stream::iter(listed).map(look).buffered(READS_AT_ONCE).collect().await
    }

    /// Without the jobs that are out no more.
    async fn out(&self, tenant: &TenantId, listed: Vec<Slot>) -> Vec<Slot> {
        let now = clock::now();
        let is_out = |(slot, phase): &(Slot, Phase)| match phase {
            Phase::Waits => now.since_ms(slot.at) < TAKEN_MS_MAX,
            // Nobody can tell, so it counts.
            Phase::Runs | Phase::Unknown => true,
            Phase::Over => false,
        };
        let found = self.phases(tenant, listed).await.into_iter();
        found.filter(is_out).map(|(slot, _)| slot).collect()
    }

    /// Without the jobs that were given out after they were parked, or have ended; one that cannot be
    /// read is kept when `unknown` says so.
    async fn waiting(&self, tenant: &TenantId, parked: Vec<Slot>, unknown: bool) -> Vec<Slot> {
        let waits = |(_, phase): &(Slot, Phase)| match phase {
            Phase::Waits => true,
            Phase::Unknown => unknown,
            Phase::Runs | Phase::Over => false,
        };
        let found = self.phases(tenant, parked).await.into_iter();
        found.filter(waits).map(|(slot, _)| slot).collect()
    }

    async fn phase(&self, tenant: &TenantId, slot: &Slot) -> Phase {
        match self.bus.job(tenant, &slot.job).await {
            Ok(Some(stored)) => match stored.message.get().state {
                EventKind::Assigned => Phase::Runs,
                EventKind::Validated | EventKind::AttemptFailed => Phase::Waits,
                EventKind::Submitted
                | EventKind::Rejected
                | EventKind::Encoded
                | EventKind::Completed
                | EventKind::Failed
                | EventKind::Cancelled
                | EventKind::Expired => Phase::Over,
            },
            Ok(None) => Phase::Over,
            Err(_) => Phase::Unknown,
        }
    }

    /// Lists the job; all that are listed then.
    async fn list(&self, key: &str, task: &Task, cap: u64) -> Result<Vec<Slot>, Held> {
        let bucket = self.bus.bucket("slots");
        for _ in 0..TRIES_MAX {
            let (entry, revision) = bucket.look::<SlotRecord>(key).await.map_err(unread)?;
            let mut record = entry.map(|entry| entry.value).unwrap_or_default();
            // Of before: a lease that was lost.
            record.slots.retain(|slot| slot.job != task.job);
            record.slots = self.out(&task.tenant, record.slots).await;
            if count(&record.slots) >= cap {
                return Err(Held::Full);
            }
            record.slots.push(Slot { job: task.job.clone(), at: clock::now() });
            match bucket.update(key, &record, revision).await {
                Ok(_) => return Ok(record.slots),
                Err(KvError::Conflict) => {}
                Err(error) => return Err(unread(error)),
            }
        }
        Err(Held::Full)
    }

    /// Takes the job off the list. If that fails it counts for some seconds more.
    async fn unlist(&self, key: &str, task: &Task) {
        let bucket = self.bus.bucket("slots");
        for _ in 0..TRIES_MAX {
            let Ok((Some(entry), revision)) = bucket.look::<SlotRecord>(key).await else { return };
            let mut record = entry.value;
            record.slots.retain(|slot| slot.job != task.job);
            match bucket.update(key, &record, revision).await {
                Err(KvError::Conflict) => {}
                Ok(_) | Err(_) => return,
            }
        }
    }
}

/// Puts a job on a list, once: two signers may hold it, when a lease was lost, and the broker counts
/// it once.
fn put(list: &mut Vec<Slot>, job: &JobId, at: UnixMs) {
    list.retain(|slot| slot.job != *job);
    list.push(Slot { job: job.clone(), at });
}

/// Where a listed job is.
enum Phase {
    /// It was given out.
    Runs,
    /// It waits for a worker.
    Waits,
    /// It needs none.
    Over,
    /// It cannot be read.
    Unknown,
}

#[expect(clippy::needless_pass_by_value, reason = "what map_err calls")]
fn unread(error: KvError) -> Held {
    warn!(%error, "slots not read; the job will be offered again");
    Held::Unread
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_two_signers_park_counts_once() {
        let (one, two) = (JobId::new(1, [1; 10]), JobId::new(1, [2; 10]));
        let mut list = Vec::new();
        for (job, at) in [(&one, 1), (&two, 2), (&one, 3)] {
            put(&mut list, job, UnixMs(at));
        }
        let slot = |job: &JobId, at| Slot { job: job.clone(), at: UnixMs(at) };
        assert_eq!(list, [slot(&two, 2), slot(&one, 3)]);
    }
}

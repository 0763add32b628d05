//! The cap of a tenant over all of its priority classes.
//!
//! The broker holds it within each class. Jobs of `high` and `low` are listed in a record besides,
//! written by compare-and-set before anything else is looked at. A job of `high` or `low` lists
//! itself and then counts those of `normal` that the broker has out; a job of `normal` is out
//! first, and then counts those that are listed. So of two that take the last place in the same
//! moment each sees the other, and never do both keep it. The broker counts what was given back as
//! out until somebody takes it, so a place may stay empty for a moment, but none is taken twice.

use super::{Held, Queues, Task};
use hotcell_schemas::{
    EventKind, PoolId, TenantId,
    tenancy::{Priority, Slot, SlotRecord},
};
use hotcell_stage::{clock, kv::KvError};
use tracing::warn;

/// Between the listing of a job and its `assigned` there are two reads and a write: after so many
/// milliseconds who listed it has died.
const TAKEN_MS_MAX: u64 = 15_000;

/// Writes of one record that lose to another signer's before the job is given back.
const TRIES_MAX: u32 = 8;

impl Queues {
    /// Whether the job has room beside all others of its tenant in the pool.
    pub(super) async fn has_slot(
        &self,
        pool: &PoolId,
        task: &Task,
        class: Priority,
        cap: u64,
    ) -> Result<(), Held> {
        let key = format!("{}.{pool}", task.tenant);
        let listed = if class.is_normal() {
            let record = self.bus.bucket("slots").get::<SlotRecord>(&key).await;
            let record = record.map_err(unread)?.map(|entry| entry.value).unwrap_or_default();
            self.alive(&task.tenant, record).await
        } else {
            self.list(&key, task, cap).await?
        };
        let normal = self.state(pool, &task.tenant, Priority::Normal).await.ok_or(Held::Unread)?;
        let out = u64::try_from(listed.slots.len()).unwrap_or(u64::MAX);
        if out.saturating_add(normal.num_ack_pending) <= cap {
            return Ok(());
        }
        if !class.is_normal() {
            self.unlist(&key, task).await;
        }
        Err(Held::Full)
    }

    /// Without the jobs that have ended since.
    async fn alive(&self, tenant: &TenantId, record: SlotRecord) -> SlotRecord {
        let (mut slots, now) = (Vec::new(), clock::now());
        for slot in record.slots {
            let is_out = match self.bus.job(tenant, &slot.job).await {
                Ok(Some(stored)) => match stored.message.get().state {
                    EventKind::Assigned => true,
                    EventKind::Validated | EventKind::AttemptFailed => {
                        now.since_ms(slot.at) < TAKEN_MS_MAX
                    }
                    EventKind::Submitted
                    | EventKind::Rejected
                    | EventKind::Encoded
                    | EventKind::Completed
                    | EventKind::Failed
                    | EventKind::Cancelled
                    | EventKind::Expired => false,
                },
                Ok(None) => false,
                // Nobody can tell, so it counts.
                Err(_) => true,
            };
            if is_out {
                slots.push(slot);
            }
        }
        SlotRecord { slots }
    }

    /// Lists the job; all that are listed then.
    async fn list(&self, key: &str, task: &Task, cap: u64) -> Result<SlotRecord, Held> {
        let bucket = self.bus.bucket("slots");
        for _ in 0..TRIES_MAX {
            let (entry, revision) = bucket.look::<SlotRecord>(key).await.map_err(unread)?;
            let mut record = entry.map(|entry| entry.value).unwrap_or_default();
            // Of before: a lease that was lost.
            record.slots.retain(|slot| slot.job != task.job);
            let mut record = self.alive(&task.tenant, record).await;
            if u64::try_from(record.slots.len()).is_ok_and(|out| out >= cap) {
                return Err(Held::Full);
            }
            record.slots.push(Slot { job: task.job.clone(), at: clock::now() });
            match bucket.update(key, &record, revision).await {
                Ok(_) => return Ok(record),
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

#[expect(clippy::needless_pass_by_value, reason = "what map_err calls")]
fn unread(error: KvError) -> Held {
    warn!(%error, "slots not read; the job will be offered again");
    Held::Unread
}

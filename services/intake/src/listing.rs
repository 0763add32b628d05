//! The order of a tenant's jobs, kept in bucket `listing`: pages of ids, appended to by
//! compare-and-set, so any number of intakes write one order.
//!
//! Promises: an id is in a page before its job has an event, so no job is missing from the list;
//! submissions that come together are written together; one id stands once, also when its request
//! is repeated. Refuses: to look for a job among pages older than the job.

use hotcell_schemas::{JobId, TenantId, listing::JobPage};
use hotcell_stage::{
    Bus,
    kv::{Bucket, Entry, KvError},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tracing::debug;

/// Writes of one page that are tried: each rival that wins is another intake's group, and there are
/// a handful of intakes.
const TRIES_MAX: u32 = 24;

/// Longest pause after a lost race, in milliseconds.
const PAUSE_MS_MAX: u64 = 10;

/// Pages that are searched for an id at most: 131,072 jobs, at the quickest plan some twenty
/// minutes, which is longer than a client repeats one request.
const SEARCH_PAGES_MAX: u32 = 1024;

/// How far the clocks of two intakes may differ, in milliseconds: ids begin with a time.
const SKEW_MS: u64 = 60_000;

/// The pages, and the submissions of this process that wait to be written.
#[derive(Debug)]
pub struct Listing {
    pages: Bucket,
    lanes: Mutex<HashMap<TenantId, Arc<Lane>>>,
}

/// What one tenant has waiting.
#[derive(Debug, Default)]
struct Lane {
    waiting: Mutex<Vec<JobId>>,
    /// Held by the one who writes for all.
    writing: tokio::sync::Mutex<()>,
}

/// One submission that waits; dropped, also by a client that went away, it waits no more.
struct Waits<'a> {
    listing: &'a Listing,
    tenant: &'a TenantId,
    id: &'a JobId,
    lane: Arc<Lane>,
}

impl<'a> Waits<'a> {
    fn new(listing: &'a Listing, tenant: &'a TenantId, id: &'a JobId) -> Self {
        let lane = Arc::clone(lock(&listing.lanes).entry(tenant.clone()).or_default());
        lock(&lane.waiting).push(id.clone());
        Self { listing, tenant, id, lane }
    }

    fn still(&self) -> bool {
        lock(&self.lane.waiting).contains(self.id)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        lock(&self.lane.waiting).retain(|waiting| waiting != self.id);
        let mut lanes = lock(&self.listing.lanes);
        // Clones are made under this lock only: the map's and this one are all there are.
        if Arc::strong_count(&self.lane) <= 2 {
            lanes.remove(self.tenant);
        }
    }
}

/// The key of a page.
fn key(tenant: &TenantId, page: u64) -> String {
    format!("{tenant}.{page}")
}

/// The number in a page's key.
fn number(key: &str) -> u64 {
    key.rsplit('.').next().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The time in an id (RFC 9562 §5.7), in milliseconds.
fn born_ms(id: &JobId) -> u64 {
    id.as_str().get(..12).and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0)
}

impl Listing {
    /// Reads and writes through `bus`.
    #[must_use]
    pub fn new(bus: &Bus) -> Self {
        Self { pages: bus.bucket("listing"), lanes: Mutex::default() }
    }

    /// The newest page with its number; `None` when the tenant never submitted.
    ///
    /// # Errors
    /// `Unread`, `Malformed`.
    pub async fn newest(&self, tenant: &TenantId) -> Result<Option<(u64, JobPage)>, KvError> {
        let entry = self.pages.newest::<JobPage>(&format!("{tenant}.")).await?;
        Ok(entry.map(|entry| (number(&entry.key), entry.value)))
    }

    /// One page.
    ///
    /// # Errors
    /// `Unread`, `Malformed`.
    pub async fn page(&self, tenant: &TenantId, page: u64) -> Result<Option<JobPage>, KvError> {
        Ok(self.pages.get::<JobPage>(&key(tenant, page)).await?.map(|entry| entry.value))
    }

    /// Appends `id`, unless it stands there. `is_new`: nobody can have appended it before.
    ///
    /// # Errors
    /// `Unread`, `Unwritten`, `Malformed`; `Conflict` when rivals won every time.
    pub async fn add(&self, tenant: &TenantId, id: &JobId, is_new: bool) -> Result<(), KvError> {
        if !is_new && self.holds(tenant, id).await? {
            return Ok(());
        }
        let waits = Waits::new(self, tenant, id);
        let _turn = waits.lane.writing.lock().await;
        if !waits.still() {
            // Whoever had the turn before wrote it.
            return Ok(());
        }
        let group = lock(&waits.lane.waiting).clone();
        self.append(tenant, &group).await?;
        lock(&waits.lane.waiting).retain(|waiting| !group.contains(waiting));
        Ok(())
    }

    /// Writes all of `group`, over as many pages as that needs.
    async fn append(&self, tenant: &TenantId, group: &[JobId]) -> Result<(), KvError> {
        let mut rest: Vec<&JobId> = group.iter().collect();
        let mut lost = 0;
        while !rest.is_empty() {
            let newest = self.pages.newest::<JobPage>(&format!("{tenant}.")).await?;
            let (page, mut value, revision) = match newest {
                Some(Entry { key, value, revision, .. }) if !value.is_full() => {
                    (number(&key), value, revision)
                }
                Some(entry) => {
                    rest.retain(|id| !entry.value.jobs.contains(id));
                    (number(&entry.key) + 1, JobPage::default(), 0)
                }
                None => (1, JobPage::default(), 0),
            };
            // What an earlier try wrote although its acknowledgement was lost.
            rest.retain(|id| !value.jobs.contains(id));
            let room = hotcell_schemas::listing::PAGE_JOBS_MAX.saturating_sub(value.jobs.len());
            let taken = room.min(rest.len());
            if taken == 0 {
                break;
            }
            value.jobs.extend(rest.iter().take(taken).map(|id| (*id).clone()));
            match self.pages.update(&key(tenant, page), &value, revision).await {
                Ok(_) => {
                    rest.drain(..taken);
                }
                Err(KvError::Conflict) if lost < TRIES_MAX => {
                    lost += 1;
                    let [random] = hotcell_stage::clock::random::<1>();
                    let pause = u64::from(random) % PAUSE_MS_MAX;
                    debug!(%tenant, lost, "another intake wrote the list first");
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether `id` stands in a page: from the newest back to those that are older than the id.
    async fn holds(&self, tenant: &TenantId, id: &JobId) -> Result<bool, KvError> {
        let Some((mut number, mut page)) = self.newest(tenant).await? else { return Ok(false) };
        for _ in 0..SEARCH_PAGES_MAX {
            if page.jobs.contains(id) {
                return Ok(true);
            }
            let youngest = page.jobs.iter().map(born_ms).max().unwrap_or(u64::MAX);
            if youngest.saturating_add(SKEW_MS) < born_ms(id) || number <= 1 {
                return Ok(false);
            }
            number -= 1;
            page = self.page(tenant, number).await?.unwrap_or_default();
        }
        Ok(false)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_ids_are_read_back() {
        assert_eq!(number(&key(&"acme-2".parse().unwrap(), 4711)), 4711);
        assert_eq!(number("acme"), 0);
        let id = JobId::new(1_763_757_131_000, [7; 10]);
        assert_eq!(born_ms(&id), 1_763_757_131_000);
    }
}

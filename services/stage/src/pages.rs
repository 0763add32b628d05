//! Lists that only grow, kept in a bucket: pages of ids, appended to by compare-and-set, so any number
//! of processes write one order.
//!
//! Promises: what is added together is written together; an id that stands in the newest page is not
//! written again; a place in a list stays that place. Refuses: to remove. Ids go with their page, by
//! the bucket's own age.

use crate::{
    clock,
    kv::{Bucket, Entry, KvError},
};
use hotcell_schemas::{
    DeliveryId, JobId,
    hook::DeliveryPage,
    limits::DELIVERY_PAGE_MAX,
    listing::{JobPage, PAGE_JOBS_MAX},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tracing::debug;

/// Writes of one page that are tried: each rival that wins is another process' group, and there are
/// a handful of processes.
const TRIES_MAX: u32 = 24;

/// Longest pause after a lost race, in milliseconds.
const PAUSE_MS_MAX: u64 = 10;

/// A page of a list.
pub trait Page: Default + Serialize + DeserializeOwned {
    /// What it lists.
    type Id: Clone + PartialEq;
    /// Ids at most.
    const IDS_MAX: usize;

    /// Its ids, the oldest first.
    fn ids(&self) -> &[Self::Id];

    /// Adds one.
    fn push(&mut self, id: Self::Id);
}

impl Page for JobPage {
    type Id = JobId;
    const IDS_MAX: usize = PAGE_JOBS_MAX;

    fn ids(&self) -> &[JobId] {
        &self.jobs
    }

    fn push(&mut self, id: JobId) {
        self.jobs.push(id);
    }
}

impl Page for DeliveryPage {
    type Id = DeliveryId;
    const IDS_MAX: usize = DELIVERY_PAGE_MAX;

    fn ids(&self) -> &[DeliveryId] {
        &self.deliveries
    }

    fn push(&mut self, id: DeliveryId) {
        self.deliveries.push(id);
    }
}

/// The lists of a bucket, each under a prefix of its own, and what this process has waiting for them.
#[derive(Debug)]
pub struct Pages<P: Page> {
    bucket: Bucket,
    lanes: Mutex<HashMap<String, Arc<Lane<P::Id>>>>,
}

/// What waits for one list.
#[derive(Debug)]
struct Lane<I> {
    waiting: Mutex<Vec<I>>,
    /// Held by the one who writes for all.
    writing: tokio::sync::Mutex<()>,
}

/// An id that waits; dropped, also by a caller that went away, it waits no more.
struct Waits<'a, P: Page> {
    pages: &'a Pages<P>,
    list: &'a str,
    id: &'a P::Id,
    lane: Arc<Lane<P::Id>>,
}

impl<'a, P: Page> Waits<'a, P> {
    fn new(pages: &'a Pages<P>, list: &'a str, id: &'a P::Id) -> Self {
        let mut lanes = lock(&pages.lanes);
        let lane = lanes.entry(list.to_owned()).or_insert_with(|| {
            Arc::new(Lane { waiting: Mutex::default(), writing: tokio::sync::Mutex::default() })
        });
        let lane = Arc::clone(lane);
        lock(&lane.waiting).push(id.clone());
        drop(lanes);
        Self { pages, list, id, lane }
    }

    fn still(&self) -> bool {
        lock(&self.lane.waiting).contains(self.id)
    }
}

impl<P: Page> Drop for Waits<'_, P> {
    fn drop(&mut self) {
        lock(&self.lane.waiting).retain(|waiting| waiting != self.id);
        let mut lanes = lock(&self.pages.lanes);
        // Clones are made under this lock only: the map's and this one are all there are.
        if Arc::strong_count(&self.lane) <= 2 {
            lanes.remove(self.list);
        }
    }
}

/// The number in a page's key.
fn number(key: &str) -> u64 {
    key.rsplit('.').next().and_then(|text| text.parse().ok()).unwrap_or(0)
}

impl<P: Page> Pages<P> {
    /// The lists in `bucket`.
    #[must_use]
    pub fn new(bucket: Bucket) -> Self {
        Self { bucket, lanes: Mutex::default() }
    }

    /// The newest page of a list with its number, which is from 1; `None` when it has none.
    ///
    /// # Errors
    /// `Unread`, `Malformed`.
    pub async fn newest(&self, list: &str) -> Result<Option<(u64, P)>, KvError> {
        let entry = self.bucket.newest::<P>(&format!("{list}.")).await?;
        Ok(entry.map(|entry| (number(&entry.key), entry.value)))
    }

    /// One page.
    ///
    /// # Errors
    /// `Unread`, `Malformed`.
    pub async fn page(&self, list: &str, page: u64) -> Result<Option<P>, KvError> {
        Ok(self.bucket.get::<P>(&format!("{list}.{page}")).await?.map(|entry| entry.value))
    }

    /// Appends `id`, unless it stands in the newest page.
    ///
    /// # Errors
    /// `Unread`, `Unwritten`, `Malformed`; `Conflict` when rivals won every time.
    pub async fn add(&self, list: &str, id: &P::Id) -> Result<(), KvError> {
        let waits = Waits::new(self, list, id);
        let _turn = waits.lane.writing.lock().await;
        if !waits.still() {
            // Whoever had the turn before wrote it.
            return Ok(());
        }
        let group = lock(&waits.lane.waiting).clone();
        self.append(list, &group).await?;
        lock(&waits.lane.waiting).retain(|waiting| !group.contains(waiting));
        Ok(())
    }

    /// Writes all of `group`, over as many pages as that needs.
    async fn append(&self, list: &str, group: &[P::Id]) -> Result<(), KvError> {
        let mut rest: Vec<&P::Id> = group.iter().collect();
        let mut lost = 0;
        while !rest.is_empty() {
            let newest = self.bucket.newest::<P>(&format!("{list}.")).await?;
            let (page, mut value, revision) = match newest {
                Some(Entry { key, value, revision, .. }) if value.ids().len() < P::IDS_MAX => {
                    (number(&key), value, revision)
                }
                Some(entry) => {
                    rest.retain(|id| !entry.value.ids().contains(id));
                    (number(&entry.key) + 1, P::default(), 0)
                }
                None => (1, P::default(), 0),
            };
            // What an earlier try wrote although its acknowledgement was lost.
            rest.retain(|id| !value.ids().contains(id));
            let taken = P::IDS_MAX.saturating_sub(value.ids().len()).min(rest.len());
            if taken == 0 {
                break;
            }
            rest.iter().take(taken).for_each(|id| value.push((*id).clone()));
            match self.bucket.update(&format!("{list}.{page}"), &value, revision).await {
                Ok(_) => {
                    rest.drain(..taken);
                }
                Err(KvError::Conflict) if lost < TRIES_MAX => {
                    lost += 1;
                    let [random] = clock::random::<1>();
                    let pause = u64::from(random) % PAUSE_MS_MAX;
                    debug!(list, lost, "another process wrote the list first");
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_page_is_read_back() {
        assert_eq!((number("acme-2.4711"), number("acme.0193.7"), number("acme")), (4711, 7, 0));
    }
}

//! The order of a tenant's jobs, kept in bucket `listing`: pages of ids, appended to by
//! compare-and-set, so any number of intakes write one order.
//!
//! Promises: an id is in a page before its job has an event, so no job is missing from the list;
//! submissions that come together are written together; one id stands once, also when its request
//! is repeated. Refuses: to look for a job among pages older than the job.

use hotcell_schemas::{JobId, TenantId, listing::JobPage};
use hotcell_stage::{Bus, kv::KvError, pages::Pages};

/// Pages that are searched for an id at most: 131,072 jobs, at the quickest plan some twenty
/// minutes, which is longer than a client repeats one request.
const SEARCH_PAGES_MAX: u32 = 1024;

/// How far the clocks of two intakes may differ, in milliseconds: ids begin with a time.
const SKEW_MS: u64 = 60_000;

/// The pages of every tenant's list.
#[derive(Debug)]
pub struct Listing(Pages<JobPage>);

/// The time in an id (RFC 9562 §5.7), in milliseconds.
fn born_ms(id: &JobId) -> u64 {
    id.as_str().get(..12).and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0)
}

impl Listing {
    /// Reads and writes through `bus`.
    #[must_use]
    pub fn new(bus: &Bus) -> Self {
        Self(Pages::new(bus.bucket("listing")))
    }

    /// The newest page with its number; `None` when the tenant never submitted.
    ///
    /// # Errors
    /// `Unread`, `Malformed`.
    pub async fn newest(&self, tenant: &TenantId) -> Result<Option<(u64, JobPage)>, KvError> {
        self.0.newest(tenant.as_str()).await
    }

    /// One page.
    ///
    /// # Errors
    /// `Unread`, `Malformed`.
    pub async fn page(&self, tenant: &TenantId, page: u64) -> Result<Option<JobPage>, KvError> {
        self.0.page(tenant.as_str(), page).await
    }

    /// Appends `id`, unless it stands there. `is_new`: nobody can have appended it before.
    ///
    /// # Errors
    /// `Unread`, `Unwritten`, `Malformed`; `Conflict` when rivals won every time.
    pub async fn add(&self, tenant: &TenantId, id: &JobId, is_new: bool) -> Result<(), KvError> {
        if !is_new && self.holds(tenant, id).await? {
            return Ok(());
        }
        self.0.add(tenant.as_str(), id).await
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_an_id_is_read_back() {
        let id = JobId::new(1_763_757_131_000, [7; 10]);
        assert_eq!(born_ms(&id), 1_763_757_131_000);
    }
}

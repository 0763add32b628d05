//! Tenants' own broker accounts, where their programs hear what became of their jobs.
//!
//! Promises: an account is as its tenant's record said it within the last [`FRESH_MS`]. Refuses: to
//! name the account of a tenant that is suspended, removed or unknown: it is told nothing.

use hotcell_schemas::{TenantId, records::TenantRecord};
use hotcell_stage::{Bus, Halt, kv::Bucket};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};
use tracing::{debug, warn};

/// A tenant's record is read again after this long, in milliseconds, as by every service. The
/// broker has cut the connections of one that was suspended meanwhile: nobody hears the rest.
const FRESH_MS: u64 = 1000;

/// Tenants that are kept in mind; more than these, and all are read again.
const TENANTS_MAX: usize = 10_000;

/// Delay before an event is handled again when the broker did not answer, in milliseconds.
const RETRY_MS: u64 = 1000;

/// The accounts.
pub(crate) struct Accounts {
    tenants: Bucket,
    known: Mutex<HashMap<TenantId, (Instant, Option<String>)>>,
}

impl Accounts {
    pub(crate) fn new(bus: &Bus) -> Self {
        Self { tenants: bus.bucket("tenants"), known: Mutex::default() }
    }

    /// The account of `tenant`, when it is served.
    ///
    /// # Errors
    /// `Retry`, when its record cannot be read.
    pub(crate) async fn of(&self, tenant: &TenantId) -> Result<Option<String>, Halt> {
        let now = Instant::now();
        let known = self.known().get(tenant).cloned();
        if let Some((read, account)) = known
            && now.duration_since(read) < Duration::from_millis(FRESH_MS)
        {
            return Ok(account);
        }
        let found = self.tenants.get::<TenantRecord>(tenant.as_str()).await;
        let found = found.map_err(|error| {
            debug!(%error, "tenant not read");
            Halt::retry_ms(RETRY_MS, "the tenant's record cannot be read")
        })?;
        if found.is_none() {
            warn!(%tenant, "a job's tenant has no record");
        }
        let served = found.map(|entry| entry.value).filter(|record| record.state.is_active());
        let account = served.map(|record| record.account);
        let mut known = self.known();
        if known.len() >= TENANTS_MAX {
            known.clear();
        }
        known.insert(tenant.clone(), (now, account.clone()));
        Ok(account)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<TenantId, (Instant, Option<String>)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

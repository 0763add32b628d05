//! Stored bytes of a tenant, so that uploads cannot fill the store (API-26).
//!
//! Promises: what is stored and what every living upload URL may still store stays under the
//! tenant's limit. A URL counts until it dies, also when it was used: for an hour an upload may
//! count twice, never not at all. Each replica counts the URLs that it issued itself.

use futures::TryStreamExt as _;
use hotcell_schemas::{TenantId, UnixMs, limits::URL_TTL_SECS, records::TenantRecord};
use hotcell_stage::{Bus, clock};
use object_store::{ObjectStore, path::Path};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};
use tokio::sync::Mutex;
use tracing::warn;

/// A count of what is stored is believed this long, in milliseconds.
const COUNT_MS_MAX: u64 = 30_000;

/// Counted tenants that are remembered; those without living URLs are forgotten first.
const TENANTS_MAX: usize = 10_000;

/// Living upload URLs of one tenant: 277 each second for their whole life of an hour, 16 MiB here.
const GRANTS_MAX: usize = 1_000_000;

/// Why a tenant may not store more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum QuotaError {
    /// Its limit, or that of its living URLs: no attack, so the tenant is told and nothing recorded.
    #[error("the tenant's stored bytes would exceed its limit")]
    Over {
        /// The limit, in bytes.
        stored_bytes_max: u64,
    },
    /// Nobody's.
    #[error("there is no such tenant")]
    NoTenant,
    /// Nobody can say now.
    #[error("{0}")]
    Unknown(&'static str),
}

#[derive(Default)]
struct Count {
    at: UnixMs,
    stored: u64,
    /// URLs that may still be used: when each dies, and its bytes.
    granted: VecDeque<(UnixMs, u64)>,
    /// The sum of those bytes.
    granted_bytes: u64,
}

impl Count {
    /// Adds one URL of `size` bytes when everything that it and the living ones may store fits.
    fn grant(&mut self, size: u64, bytes_max: u64, now: UnixMs) -> Result<(), QuotaError> {
        while let Some((_, bytes)) = self.granted.pop_front_if(|(dies, _)| *dies < now) {
            self.granted_bytes -= bytes;
        }
        if self.granted.len() >= GRANTS_MAX {
            return Err(QuotaError::Over { stored_bytes_max: bytes_max });
        }
        let bytes = self.stored.saturating_add(self.granted_bytes).saturating_add(size);
        if bytes > bytes_max {
            return Err(QuotaError::Over { stored_bytes_max: bytes_max });
        }
        self.granted_bytes += size;
        self.granted.push_back((now.plus_ms(u64::from(URL_TTL_SECS) * 1000), size));
        Ok(())
    }
}

/// The counts of this process.
pub(crate) struct Quota {
    objects: Arc<dyn ObjectStore>,
    bus: Bus,
    counts: Mutex<HashMap<TenantId, Count>>,
}

impl Quota {
    pub(crate) fn new(objects: Arc<dyn ObjectStore>, bus: Bus) -> Self {
        Self { objects, bus, counts: Mutex::default() }
    }

    /// Counts `size` more bytes for `tenant`, or says why it may not have them.
    pub(crate) async fn reserve(&self, tenant: &TenantId, size: u64) -> Result<(), QuotaError> {
        let record = self.bus.bucket("tenants").get::<TenantRecord>(tenant.as_str()).await;
        let record = record.map_err(|error| {
            warn!(%error, "tenant not read");
            QuotaError::Unknown("the tenant's record cannot be read")
        })?;
        let record = record.ok_or(QuotaError::NoTenant)?.value;
        let now = clock::now();
        let fresh = |count: &Count| now.since_ms(count.at) < COUNT_MS_MAX;
        let known = self.counts.lock().await.get(tenant).is_some_and(fresh);
        // Not under the lock: one slow list must not hold up the other tenants.
        let counted = if known { None } else { Some(self.stored(tenant).await?) };
        let mut counts = self.counts.lock().await;
        if counts.len() >= TENANTS_MAX {
            counts.retain(|_, count| !count.granted.is_empty());
        }
        let count = counts.entry(tenant.clone()).or_default();
        if let Some(stored) = counted {
            (count.at, count.stored) = (now, stored);
        }
        count.grant(size, record.stored_bytes_max, now)
    }

    async fn stored(&self, tenant: &TenantId) -> Result<u64, QuotaError> {
        let prefix = Path::from(tenant.as_str());
        let listed = self.objects.list(Some(&prefix));
        let sum =
            listed.try_fold(0_u64, |sum, meta| async move { Ok(sum.saturating_add(meta.size)) });
        sum.await.map_err(|error| {
            warn!(%error, "stored bytes not counted");
            QuotaError::Unknown("the store cannot be listed")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// API-26: URLs that were not used yet count, so they cannot be hoarded past the limit.
    #[test]
    fn hoarded_urls_count_until_they_die() {
        let mut count = Count { stored: 40, ..Count::default() };
        let now = UnixMs(1_000_000);
        assert!(count.grant(30, 100, now).is_ok());
        assert!(count.grant(30, 100, now).is_ok());
        assert!(count.grant(1, 100, now).is_err());
        // A recount of the store does not forget them.
        count.stored = 40;
        let later = now.plus_ms(u64::from(URL_TTL_SECS) * 1000);
        assert!(count.grant(1, 100, later).is_err());
        assert!(count.grant(60, 100, later.plus_ms(1)).is_ok());
    }
}

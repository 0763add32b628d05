//! Stored bytes of a tenant, so that uploads cannot fill the store (API-26).

use futures::TryStreamExt as _;
use hotcell_schemas::{TenantId, UnixMs, records::TenantRecord};
use hotcell_stage::{Bus, clock};
use object_store::{ObjectStore, path::Path};
use std::{collections::HashMap, sync::Arc};
use tokio::sync::Mutex;
use tracing::warn;

/// A count is believed this long, in milliseconds, plus what was granted meanwhile.
const COUNT_MS_MAX: u64 = 30_000;

/// Counted tenants that are remembered.
const TENANTS_MAX: usize = 10_000;

struct Count {
    at: UnixMs,
    bytes: u64,
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
    pub(crate) async fn reserve(&self, tenant: &TenantId, size: u64) -> Result<(), &'static str> {
        let record = self.bus.bucket("tenants").get::<TenantRecord>(tenant.as_str()).await;
        let record = record.map_err(|error| {
            warn!(%error, "tenant not read");
            "the tenant's record cannot be read"
        })?;
        let record = record.ok_or("there is no such tenant")?.value;
        let now = clock::now();
        let mut counts = self.counts.lock().await;
        let known = counts.get(tenant).filter(|count| now.since_ms(count.at) < COUNT_MS_MAX);
        let (at, bytes) = match known {
            Some(count) => (count.at, count.bytes),
            None => (now, self.stored(tenant).await?),
        };
        let bytes = bytes.saturating_add(size);
        if bytes > record.stored_bytes_max {
            return Err("quota: the tenant's stored bytes would exceed its limit");
        }
        if counts.len() >= TENANTS_MAX {
            counts.clear();
        }
        counts.insert(tenant.clone(), Count { at, bytes });
        Ok(())
    }

    async fn stored(&self, tenant: &TenantId) -> Result<u64, &'static str> {
        let prefix = Path::from(tenant.as_str());
        let listed = self.objects.list(Some(&prefix));
        let sum =
            listed.try_fold(0_u64, |sum, meta| async move { Ok(sum.saturating_add(meta.size)) });
        sum.await.map_err(|error| {
            warn!(%error, "stored bytes not counted");
            "the store cannot be listed"
        })
    }
}

//! Removes bytes whose time is over, and says so in the log: uploads that nobody confirmed (1 h),
//! inputs and outputs past the tenant's retention, and all that a removed tenant had. Any number of signers may reap: removing twice
//! is harmless, and `expired` is a compare-and-set.

use futures::TryStreamExt as _;
use hotcell_schemas::{
    BlobKey, Digest, EventKind, JobId, TenantId,
    records::{AuditAct, TenantRecord, UploadRecord},
    tenancy::TenantState,
};
use hotcell_stage::{Bus, Outgoing, ServiceError, Shutdown, clock};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt as _, path::Path};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tracing::{info, warn};

/// Objects named in one audit record at most: 64 hex digits each stay far under the body limit.
const KEYS_PER_RECORD: usize = 512;

/// When to reap, and what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// Seconds between two reaps.
    pub(crate) period_secs: u64,
    /// Age of an unconfirmed upload that is removed, in seconds.
    pub(crate) unconfirmed_secs: u64,
}

/// Reaps every `period_secs` until shutdown.
pub(crate) async fn run(
    bus: Bus,
    objects: Arc<dyn ObjectStore>,
    times: Times,
    shutdown: Shutdown,
) -> Result<(), ServiceError> {
    loop {
        shutdown.sleep(Duration::from_secs(times.period_secs)).await;
        if shutdown.has_begun() {
            return Ok(());
        }
        let tenants = match bus.bucket("tenants").scan::<serde_json::Value>("").await {
            Ok(entries) => entries,
            Err(error) => {
                warn!(%error, "tenants not listed; nothing reaped");
                continue;
            }
        };
        for slug in tenants.iter().filter_map(|entry| entry.key.parse::<TenantId>().ok()) {
            let record = bus.bucket("tenants").get::<TenantRecord>(slug.as_str()).await;
            let Ok(Some(record)) = record else { continue };
            if let Err(error) = tenant(&bus, &objects, &record.value, times).await {
                warn!(%error, tenant = %slug, "not reaped; trying again later");
            }
        }
    }
}

async fn tenant(
    bus: &Bus,
    objects: &Arc<dyn ObjectStore>,
    record: &TenantRecord,
    times: Times,
) -> Result<(), object_store::Error> {
    let prefix = Path::from(record.id.as_str());
    let listed: Vec<ObjectMeta> = objects.list(Some(&prefix)).try_collect().await?;
    if record.state == TenantState::Removed {
        return erase(bus, objects, &record.id, listed).await;
    }
    let (mut unconfirmed, mut retained, mut jobs) = (Vec::new(), Vec::new(), BTreeSet::new());
    for meta in listed {
        let written = u64::try_from(meta.last_modified.timestamp()).unwrap_or(0);
        let age_secs = clock::now().secs().saturating_sub(written);
        let Ok(key) = meta.location.as_ref().parse::<BlobKey>() else { continue };
        if age_secs > record.retention_secs {
            jobs.extend(job_of(&key));
            retained.push((meta.location, key));
        } else if age_secs > times.unconfirmed_secs && is_unconfirmed(bus, &record.id, &key).await {
            unconfirmed.push((meta.location, key));
        }
    }
    remove(bus, objects, &record.id, unconfirmed, "unconfirmed").await?;
    // First the word, then the deed: once the bytes are gone nothing would lead back to the job.
    let mut kept = BTreeSet::new();
    for job in jobs {
        if !expire(bus, &record.id, &job).await {
            kept.insert(job);
        }
    }
    retained.retain(|(_, key)| job_of(key).is_none_or(|job| !kept.contains(&job)));
    remove(bus, objects, &record.id, retained, "retention").await
}

/// Everything of a removed tenant, of whatever age. It is looked for in every round: a URL that was
/// given before the removal may still store something. What has a name that is none of ours goes,
/// too; the record then holds the digest of that name.
async fn erase(
    bus: &Bus,
    objects: &Arc<dyn ObjectStore>,
    tenant: &TenantId,
    listed: Vec<ObjectMeta>,
) -> Result<(), object_store::Error> {
    for chunk in listed.chunks(KEYS_PER_RECORD) {
        let digest = |meta: &ObjectMeta| Digest::of(meta.location.as_ref().as_bytes());
        let keys = chunk.iter().map(digest).collect();
        if !record(bus, tenant, keys, "tenant_removed").await {
            return Ok(());
        }
        delete(objects, chunk.iter().map(|meta| &meta.location)).await?;
        info!(%tenant, why = "tenant_removed", objects = chunk.len(), "reaped");
    }
    Ok(())
}

fn job_of(key: &BlobKey) -> Option<JobId> {
    match *key.as_str().split('/').collect::<Vec<_>>().as_slice() {
        [_, "jobs", job, "out", ..] => job.parse().ok(),
        _ => None,
    }
}

/// An upload without a pinned record. What cannot be read counts as confirmed: nothing is removed
/// on a doubt.
async fn is_unconfirmed(bus: &Bus, tenant: &TenantId, key: &BlobKey) -> bool {
    let [_, "uploads", _, name] = *key.as_str().split('/').collect::<Vec<_>>().as_slice() else {
        return false;
    };
    match bus.bucket("uploads").get::<UploadRecord>(&format!("{tenant}.{name}")).await {
        Ok(Some(entry)) => entry.value.pinned.is_none() || entry.value.key != *key,
        Ok(None) => true,
        Err(error) => {
            warn!(%error, "upload record not read");
            false
        }
    }
}

async fn remove(
    bus: &Bus,
    objects: &Arc<dyn ObjectStore>,
    tenant: &TenantId,
    doomed: Vec<(Path, BlobKey)>,
    why: &str,
) -> Result<(), object_store::Error> {
    for chunk in doomed.chunks(KEYS_PER_RECORD) {
        let keys: Vec<Digest> = chunk.iter().map(|(_, key)| key.digest()).collect();
        if !record(bus, tenant, keys, why).await {
            return Ok(());
        }
        delete(objects, chunk.iter().map(|(path, _)| path)).await?;
        info!(%tenant, why, objects = chunk.len(), "reaped");
    }
    Ok(())
}

/// Whether the removal is in the log: no word, no deed.
async fn record(bus: &Bus, tenant: &TenantId, keys: Vec<Digest>, why: &str) -> bool {
    let act = AuditAct::Reaped { keys, why: why.to_owned() };
    let id = format!("reaped.{}", hex::encode(clock::random::<16>()));
    match bus.publish(&Outgoing::audit(Some(tenant), act, id)).await {
        Ok(_) => true,
        Err(error) => {
            warn!(%error, "removal not recorded; nothing removed");
            false
        }
    }
}

async fn delete(
    objects: &Arc<dyn ObjectStore>,
    paths: impl Iterator<Item = &Path>,
) -> Result<(), object_store::Error> {
    for path in paths {
        match objects.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether the job's outputs may go: it is expired now, or was in no state to expire.
async fn expire(bus: &Bus, tenant: &TenantId, id: &JobId) -> bool {
    let stored = match bus.job(tenant, id).await {
        Ok(Some(stored)) => stored,
        Ok(None) => return true,
        Err(error) => {
            warn!(%error, job = %id, "job not read; its outputs stay for now");
            return false;
        }
    };
    let (seq, job) = (stored.seq, stored.message.into_inner());
    if job.state != EventKind::Completed {
        return true;
    }
    let job = job.moved(EventKind::Expired, clock::now());
    match bus.publish(&Outgoing::job(job, seq)).await {
        Ok(_) => true,
        Err(error) => {
            warn!(%error, job = %id, "expiry not published; its outputs stay for now");
            false
        }
    }
}

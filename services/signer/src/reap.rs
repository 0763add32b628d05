//! Removes bytes whose time is over, and says so in the log: uploads that nobody confirmed (1 h),
//! inputs and outputs past the tenant's retention. Any number of signers may reap: removing twice
//! is harmless, and `expired` is a compare-and-set.

use futures::TryStreamExt as _;
use hotcell_schemas::{
    BlobKey, Digest, EventKind, JobId, TenantId,
    records::{AuditAct, TenantRecord, UploadRecord},
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
        let act = AuditAct::Reaped { keys, why: why.to_owned() };
        let id = format!("reaped.{}", hex::encode(clock::random::<16>()));
        if let Err(error) = bus.publish(&Outgoing::audit(Some(tenant), act, id)).await {
            warn!(%error, "removal not recorded; nothing removed");
            return Ok(());
        }
        for (path, _) in chunk {
            match objects.delete(path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        info!(%tenant, why, objects = chunk.len(), "reaped");
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

//! Storing a set: checked, numbered, in force within a second everywhere.
//!
//! Promises: what is in force compiled when it was stored, and every version that ever was can be
//! read; of two who write at once, one is told. Refuses a text that is not valid, and to write over
//! a version that the writer has not seen, where it names one.

use crate::{
    engine::Engine,
    set::{self, Faults, Origin},
    store::{PLATFORM_KEY, PolicyStore},
};
use hotcell_schemas::{Digest, TenantId, UnixMs, job::Actor, policy::PolicyRecord};
use hotcell_stage::kv::{Bucket, KvError};

/// Versions that a tenant may store: one a day for five years. Each is kept, and of the longest texts
/// these are 100 MB. The operator may store more: whoever has taken a tenant over, and used them up,
/// has not the last word.
pub const VERSIONS_MAX: u32 = 2_000;

/// Versions that are read at once: some megabytes, whoever asks however often.
pub const HISTORY_MAX: usize = 100;

/// A set to be stored.
#[derive(Debug, Clone)]
pub struct Put<'a> {
    /// Whose; the platform's when absent.
    pub tenant: Option<&'a TenantId>,
    /// The text; none of its policies is in force when it is empty.
    pub text: &'a str,
    /// Who; the operator when absent.
    pub by: Option<Actor>,
    /// When.
    pub at: UnixMs,
    /// The version that it takes the place of, where the writer names one; 0 for none.
    pub over: Option<u32>,
}

/// Why a set was not stored.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// It may not be in force.
    #[error("the policies are not valid: {0}")]
    Invalid(#[source] Faults),
    /// Another version is in force than the writer has seen.
    #[error("version {0} is in force")]
    Conflict(u32),
    /// There are too many versions.
    #[error("the set has had {VERSIONS_MAX} versions: only the operator stores another")]
    Full,
    /// The records cannot be read or written now.
    #[error("the policies cannot be stored")]
    Records(#[source] KvError),
}

/// Whether a text may be in force, without storing it; the policies that it has.
///
/// # Errors
/// [`Faults`], each with its line.
pub fn check(text: &str, tenant: Option<&TenantId>) -> Result<usize, Faults> {
    match tenant {
        Some(tenant) => set::parse(text, Origin::Tenant(tenant)).map(|set| set.0.len()),
        None => {
            Engine::compile(Some(text), None)?;
            set::parse(text, Origin::Operator).map(|set| set.0.len())
        }
    }
}

/// The same, not on a thread that serves others: it takes milliseconds of one core, or more of them
/// where somebody tries.
///
/// # Errors
/// As [`check`].
pub async fn checked(text: &str, tenant: Option<&TenantId>) -> Result<usize, Faults> {
    let (text, tenant) = (text.to_owned(), tenant.cloned());
    let checked = tokio::task::spawn_blocking(move || check(&text, tenant.as_ref())).await;
    checked.unwrap_or_else(|_| Err(Faults::unchecked()))
}

impl PolicyStore {
    fn place<'a>(&'a self, tenant: Option<&'a TenantId>) -> (&'a Bucket, &'a str) {
        match tenant {
            Some(tenant) => (&self.tenants, tenant.as_str()),
            None => (&self.platform, PLATFORM_KEY),
        }
    }

    /// Stores a set, which is in force here at once and elsewhere within a second.
    ///
    /// # Errors
    /// [`PutError`]; nothing is changed.
    pub async fn put(&self, put: Put<'_>) -> Result<PolicyRecord, PutError> {
        checked(put.text, put.tenant).await.map_err(PutError::Invalid)?;
        let (bucket, key) = self.place(put.tenant);
        let (held, revision) = bucket.look::<PolicyRecord>(key).await.map_err(PutError::Records)?;
        let held = held.map(|entry| entry.value);
        let version = held.as_ref().map_or(0, |record| record.version);
        let next = version.checked_add(1).ok_or(PutError::Full)?;
        if put.over.is_some_and(|over| over != version) {
            return Err(PutError::Conflict(version));
        }
        if version >= VERSIONS_MAX && put.by.is_some() {
            return Err(PutError::Full);
        }
        // A writer may have ended between its two writes: the one in force is kept before it goes.
        if let Some(held) = &held {
            keep(bucket, key, held).await?;
        }
        let record = PolicyRecord {
            version: next,
            text: put.text.to_owned(),
            digest: Digest::of(put.text.as_bytes()),
            by: put.by,
            at: put.at,
        };
        match bucket.update(key, &record, revision).await {
            Ok(_) => {}
            Err(KvError::Conflict) => return Err(PutError::Conflict(next)),
            Err(error) => return Err(PutError::Records(error)),
        }
        self.forget(put.tenant);
        keep(bucket, key, &record).await?;
        Ok(record)
    }

    /// The version in force; none when there never was one.
    ///
    /// # Errors
    /// [`KvError`].
    pub async fn current(
        &self,
        tenant: Option<&TenantId>,
    ) -> Result<Option<PolicyRecord>, KvError> {
        let (bucket, key) = self.place(tenant);
        Ok(bucket.get(key).await?.map(|entry| entry.value))
    }

    /// One version; none where there is none of this number.
    ///
    /// # Errors
    /// [`KvError`].
    pub async fn version(
        &self,
        tenant: Option<&TenantId>,
        number: u32,
    ) -> Result<Option<PolicyRecord>, KvError> {
        let held = self.current(tenant).await?;
        if held.as_ref().is_some_and(|held| held.version == number) {
            return Ok(held);
        }
        let (bucket, key) = self.place(tenant);
        Ok(bucket.get(&format!("{key}.{number}")).await?.map(|entry| entry.value))
    }

    /// The last versions, the last first; at most [`HISTORY_MAX`].
    ///
    /// # Errors
    /// [`KvError`].
    pub async fn history(&self, tenant: Option<&TenantId>) -> Result<Vec<PolicyRecord>, KvError> {
        let Some(held) = self.current(tenant).await? else { return Ok(Vec::new()) };
        let (bucket, key) = self.place(tenant);
        let earlier = (1..held.version).rev().take(HISTORY_MAX - 1);
        let mut all = vec![held];
        for number in earlier {
            let kept = bucket.get(&format!("{key}.{number}")).await?;
            all.extend(kept.map(|entry| entry.value));
        }
        Ok(all)
    }
}

/// A version for ever; it may be there already.
async fn keep(bucket: &Bucket, key: &str, record: &PolicyRecord) -> Result<(), PutError> {
    match bucket.create(&format!("{key}.{}", record.version), record).await {
        Ok(_) | Err(KvError::Conflict) => Ok(()),
        Err(error) => Err(PutError::Records(error)),
    }
}

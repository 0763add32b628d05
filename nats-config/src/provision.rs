//! Makes on a running server what the code says, again and again with the same result.
//!
//! Promises: what is there and as described is left alone; consumers and accounts are changed to
//! what the code says; streams are never changed or removed: the provisioner has no such right.

use crate::{
    admin::{Admin, AdminError, Entry, random},
    api,
    diff::{Difference, differences},
    init::{RenderedAccount, comparable},
    keys::Missing,
    login::LoginName,
    streams::{self, ConsumerSpec, Replicas, StreamSpec},
};
use hotcell_schemas::{
    Digest, KeyId, PoolId, TenantId, UnixMs, WorkerId,
    identity::RoleName,
    limits::{RETENTION_SECS, TENANT_CONCURRENCY, TENANT_STORED_BYTES_MAX},
    records::{KeyRecord, TenantRecord},
    tenancy::{Quotas, TenantState},
};
use serde_json::{Value, json};
use std::{fmt, path::PathBuf};

/// Characters of an API key's secret: 43 of 62 are 256 bits.
const SECRET_CHARS: usize = 43;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// What a tenant may use.
#[derive(Debug, Clone)]
pub struct TenantSpec {
    /// Its slug.
    pub id: TenantId,
    /// Pools where its jobs may run; the first is the default.
    pub pools: Vec<PoolId>,
    /// Encodes that run at once.
    pub concurrency: u32,
    /// Life of outputs, in seconds.
    pub retention_secs: u64,
    /// Stored bytes allowed.
    pub stored_bytes_max: u64,
    /// Whether requests may give FFmpeg's own arguments.
    pub raw_arguments: bool,
    /// What its plan grants beside these.
    pub quotas: Quotas,
}

impl TenantSpec {
    /// A tenant with the platform's limits.
    #[must_use]
    pub fn new(id: TenantId, pools: Vec<PoolId>) -> Self {
        Self {
            id,
            pools,
            concurrency: TENANT_CONCURRENCY,
            retention_secs: RETENTION_SECS,
            stored_bytes_max: TENANT_STORED_BYTES_MAX,
            raw_arguments: false,
            quotas: Quotas::default(),
        }
    }
}

/// A tenant as stored, and its login.
#[derive(Debug, Clone)]
pub struct AddedTenant {
    /// The record.
    pub record: TenantRecord,
    /// The credential file.
    pub creds: PathBuf,
}

/// An API key: shown once, stored nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its public half.
    pub id: KeyId,
    text: String,
}

impl ApiKey {
    /// `hck_<id>_<secret>`.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({}, [redacted])", self.id)
    }
}

impl Admin {
    /// Accounts, streams, buckets, consumers, and every tenant's account and consumers. Returns
    /// what was made or changed; nothing, the second time.
    ///
    /// # Errors
    /// `Differs` when a stream is there and is another; else as the broker says.
    pub async fn provision(
        &self,
        replicas: Replicas,
        now: UnixMs,
    ) -> Result<Vec<String>, AdminError> {
        let mut changed = Vec::new();
        let platform =
            self.installation().render_platform(now).map_err(AdminError::Installation)?;
        for account in &platform {
            changed.extend(self.ensure_account(account).await?);
        }
        for spec in streams::streams(replicas) {
            changed.extend(self.ensure_stream(&spec).await?);
        }
        for spec in streams::consumers() {
            changed.extend(self.ensure_consumer(&spec).await?);
        }
        for record in self.tenants().await? {
            if record.state == TenantState::Removed {
                continue;
            }
            let account = self
                .installation()
                .render_tenant_as(&record.id, record.state, now)
                .map_err(AdminError::Installation)?;
            changed.extend(self.ensure_account(&account).await?);
            changed.extend(self.ensure_work(&record).await?);
        }
        // The first time there is no log before this, so the record follows the act.
        for what in &changed {
            self.record(None, "provisioned", what, now).await?;
        }
        Ok(changed)
    }

    /// Makes a tenant, or changes its limits: account, consumers, record, login. A running server
    /// takes it at once.
    ///
    /// # Errors
    /// `NoWork`, `PoolRemoved`, `OtherAccount`; `Refused` when the broker would not honour the
    /// account; else as the broker says.
    pub async fn add_tenant(
        &self,
        spec: &TenantSpec,
        user: &LoginName,
        now: UnixMs,
    ) -> Result<AddedTenant, AdminError> {
        if spec.pools.is_empty() || spec.concurrency == 0 {
            return Err(AdminError::NoWork(spec.id.clone()));
        }
        let stored: Entry<TenantRecord> = self.get("tenants", spec.id.as_str()).await?;
        // A completion of what is there (`up` again) takes no suspension back.
        let state = stored.value.as_ref().map_or(TenantState::Active, |record| record.state);
        if state == TenantState::Removed {
            return Err(AdminError::Removed(spec.id.clone()));
        }
        let account = self
            .installation()
            .render_tenant_as(&spec.id, state, now)
            .map_err(AdminError::Installation)?;
        let created_at = stored.value.as_ref().map_or(now, |record| record.created_at);
        let record = TenantRecord {
            id: spec.id.clone(),
            account: account.claims.sub.clone(),
            pools: spec.pools.clone(),
            concurrency: spec.concurrency,
            retention_secs: spec.retention_secs,
            stored_bytes_max: spec.stored_bytes_max,
            created_at,
            raw_arguments: spec.raw_arguments,
            state,
            quotas: spec.quotas.clone(),
        };
        if let Some(before) = &stored.value {
            if before.account != record.account {
                return Err(AdminError::OtherAccount(spec.id.clone()));
            }
            if before.pools.iter().any(|pool| !record.pools.contains(pool)) {
                return Err(AdminError::PoolRemoved(spec.id.clone()));
            }
        }
        let changes = stored.value.as_ref() != Some(&record);
        if changes {
            let action = if stored.value.is_some() { "tenant_changed" } else { "tenant_added" };
            self.record(Some(&spec.id), action, spec.id.as_str(), now).await?;
        }
        self.ensure_account(&account).await?;
        self.ensure_work(&record).await?;
        if changes {
            let by_account = api::account_key(&record.account);
            let slug: Entry<TenantId> = self.get("tenants", &by_account).await?;
            if slug.value.as_ref() != Some(&spec.id) {
                self.put("tenants", &by_account, slug.sequence, &spec.id).await?;
            }
            self.put("tenants", spec.id.as_str(), stored.sequence, &record).await?;
        }
        let creds = self
            .installation()
            .issue_tenant(&spec.id, user, now)
            .map_err(AdminError::Installation)?;
        Ok(AddedTenant { record, creds })
    }

    /// Makes a worker's login. Its name and pools are ids, which hold no wildcard.
    ///
    /// # Errors
    /// `Installation` (`Taken` when the worker has other pools); `Publish`.
    pub async fn add_worker(
        &self,
        name: &WorkerId,
        pools: &[PoolId],
        now: UnixMs,
    ) -> Result<PathBuf, AdminError> {
        self.record(None, "worker_added", name.as_str(), now).await?;
        self.installation().issue_worker(name, pools, now).map_err(AdminError::Installation)
    }

    /// Makes an API key of `tenant`. Its text is returned once and stored nowhere.
    ///
    /// # Errors
    /// `UnknownTenant`; else as the broker says.
    pub async fn add_key(&self, tenant: &TenantId, now: UnixMs) -> Result<ApiKey, AdminError> {
        let known: Entry<TenantRecord> = self.get("tenants", tenant.as_str()).await?;
        if known.value.is_none() {
            return Err(AdminError::UnknownTenant(tenant.clone()));
        }
        let id = KeyId::new(now.0, random()?);
        let text = format!("hck_{id}_{}", secret()?);
        let record = KeyRecord {
            id: id.clone(),
            tenant: tenant.clone(),
            sha256: Digest::of(text.as_bytes()),
            created_at: now,
            revoked_at: None,
            roles: std::iter::once(RoleName::TenantAdmin).collect(),
            expires_at: None,
            networks: Vec::new(),
            label: None,
            created_by: None,
            rotated_from: None,
            totp: None,
        };
        self.record(Some(tenant), "key_created", id.as_str(), now).await?;
        self.put("keys", id.as_str(), 0, &record).await?;
        Ok(ApiKey { id, text })
    }

    /// The tenants' records, in order of their slugs.
    ///
    /// # Errors
    /// As the broker says.
    pub async fn tenants(&self) -> Result<Vec<TenantRecord>, AdminError> {
        let filter = api::bucket_key("tenants", api::ANY);
        let mut slugs = self.subjects(&api::bucket_stream("tenants"), &filter).await?;
        slugs.sort();
        let mut records = Vec::new();
        for slug in slugs.iter().filter_map(|subject| api::tenant_of_key(subject)) {
            let entry: Entry<TenantRecord> = self.get("tenants", slug.as_str()).await?;
            records.extend(entry.value);
        }
        Ok(records)
    }

    pub(crate) async fn ensure_account(
        &self,
        account: &RenderedAccount,
    ) -> Result<Option<String>, AdminError> {
        let stored = self.stored_claims(&account.claims.sub).await?;
        if stored.is_some_and(|stored| comparable(&stored) == comparable(&account.claims)) {
            return Ok(None);
        }
        self.push_account(&account.jwt).await?;
        Ok(Some(format!("account {}", account.name)))
    }

    async fn ensure_work(&self, record: &TenantRecord) -> Result<Vec<String>, AdminError> {
        let mut changed = Vec::new();
        for pool in &record.pools {
            for spec in streams::tenant_consumers(&record.id, pool, record.concurrency) {
                changed.extend(self.ensure_consumer(&spec).await?);
            }
        }
        Ok(changed)
    }

    async fn ensure_stream(&self, spec: &StreamSpec) -> Result<Option<String>, AdminError> {
        let expected = serde_json::to_value(spec).expect("a stream's fields are plain values");
        let info = self.ask("read a stream", api::stream_info(&spec.name), &json!({})).await?;
        let (found, made) = match info {
            Some(info) => (info, None),
            None => {
                let what = "make a stream";
                let made = self.ask(what, api::stream_create(&spec.name), &expected).await?;
                let name = format!("stream {}", spec.name);
                (made.ok_or(AdminError::Answer(what))?, Some(name))
            }
        };
        match stream_differences(spec, &found) {
            none if none.is_empty() => Ok(made),
            some => Err(AdminError::Differs(some)),
        }
    }

    async fn ensure_consumer(&self, spec: &ConsumerSpec) -> Result<Option<String>, AdminError> {
        let stream = spec.stream.as_str();
        let subject = api::consumer_info(stream, &spec.name);
        let info = self.ask("read a consumer", subject, &json!({})).await?;
        if info.is_some_and(|info| consumer_differences(spec, &info).is_empty()) {
            return Ok(None);
        }
        let what = "make a consumer";
        let body = json!({"stream_name": stream, "config": spec, "action": ""});
        let subject = api::consumer_create(stream, &spec.name);
        let made = self.ask(what, subject, &body).await?.ok_or(AdminError::Answer(what))?;
        match consumer_differences(spec, &made) {
            none if none.is_empty() => Ok(Some(format!("consumer {}", spec.name))),
            some => Err(AdminError::Differs(some)),
        }
    }

    /// Whether the installation holds the keys of `tenant`.
    pub(crate) fn knows(&self, tenant: &TenantId) -> bool {
        self.installation().tenant_keys(tenant, Missing::Refuse).is_ok()
    }
}

/// What of a stream's `INFO` is not as `spec` says.
pub(crate) fn stream_differences(spec: &StreamSpec, info: &Value) -> Vec<Difference> {
    let expected = serde_json::to_value(spec).expect("a stream's fields are plain values");
    let found = info.get("config").unwrap_or(&Value::Null);
    differences(&format!("stream {}", spec.name), &expected, found)
}

/// What of a consumer's `INFO` is not as `spec` says.
pub(crate) fn consumer_differences(spec: &ConsumerSpec, info: &Value) -> Vec<Difference> {
    let expected = serde_json::to_value(spec).expect("a consumer's fields are plain values");
    let found = info.get("config").unwrap_or(&Value::Null);
    differences(&format!("consumer {}", spec.name), &expected, found)
}

/// 43 characters of base 62, each equally likely.
fn secret() -> Result<String, AdminError> {
    let mut text = String::with_capacity(SECRET_CHARS);
    while text.len() < SECRET_CHARS {
        // 248 is the largest multiple of 62 in a byte; above it the first letters would gain.
        let even = random::<64>()?.into_iter().filter(|byte| *byte < 248);
        let chars = even.filter_map(|byte| BASE62.get(usize::from(byte % 62)).copied());
        text.extend(chars.map(char::from).take(SECRET_CHARS - text.len()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_base62_and_differ() {
        let (one, two) = (secret().unwrap(), secret().unwrap());
        assert_ne!(one, two);
        for text in [one, two] {
            assert_eq!(text.len(), SECRET_CHARS);
            assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        }
    }

    #[test]
    fn a_key_never_shows_in_debug_output() {
        let id = KeyId::new(0, [0; 10]);
        let key = ApiKey { id, text: "hck_x_SECRET".to_owned() };
        assert!(!format!("{key:?}").contains("SECRET"));
    }
}

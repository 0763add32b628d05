//! Makes on a running server what the code says, again and again with the same result.
//!
//! Promises: what is there and as described is left alone; consumers and accounts are changed to
//! what the code says; streams are never changed or removed: the provisioner has no such right.

use crate::{
    admin::{Admin, AdminError, Entry},
    api,
    diff::{Difference, differences},
    init::{RenderedAccount, comparable},
    keys::Missing,
    login::LoginName,
    plan::POOLS_MAX,
    streams::{self, ConsumerSpec, Replicas, StreamSpec},
    tenants::FOLLOWS_MAX,
};
use hotcell_schemas::{
    PoolId, TenantId, UnixMs, WorkerId,
    limits::{RETENTION_SECS, TENANT_CONCURRENCY, TENANT_STORED_BYTES_MAX},
    records::TenantRecord,
    tenancy::{Quotas, TenantState},
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, path::PathBuf};

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
    /// What the tenant of `record` may use: to change a part of it.
    #[must_use]
    pub fn of(record: &TenantRecord) -> Self {
        Self {
            id: record.id.clone(),
            pools: record.pools.clone(),
            concurrency: record.concurrency,
            retention_secs: record.retention_secs,
            stored_bytes_max: record.stored_bytes_max,
            raw_arguments: record.raw_arguments,
            quotas: record.quotas.clone(),
        }
    }

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
                // A server's folder of an older day may have it again.
                changed.extend(self.delete_account(&record, now).await?);
                continue;
            }
            changed.extend(self.follow_record(&record.id, now).await?);
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
        let record = self.store_tenant(spec, now).await?;
        let creds = self
            .installation()
            .issue_tenant(&spec.id, user, now)
            .map_err(AdminError::Installation)?;
        Ok(AddedTenant { record, creds })
    }

    /// Changes the limits of a tenant that is there.
    ///
    /// # Errors
    /// `UnknownTenant`; else as [`Self::add_tenant`].
    pub async fn set_tenant(
        &self,
        spec: &TenantSpec,
        now: UnixMs,
    ) -> Result<TenantRecord, AdminError> {
        self.tenant(&spec.id).await?;
        self.store_tenant(spec, now).await
    }

    async fn store_tenant(
        &self,
        spec: &TenantSpec,
        now: UnixMs,
    ) -> Result<TenantRecord, AdminError> {
        if spec.pools.is_empty() || spec.concurrency == 0 {
            return Err(AdminError::NoWork(spec.id.clone()));
        }
        let once = spec.pools.iter().collect::<BTreeSet<_>>().len() == spec.pools.len();
        if !once || spec.pools.len() > POOLS_MAX {
            return Err(AdminError::Pools(spec.id.clone()));
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
        let kept = self.keep_tenant(&record, changes.then_some(stored.sequence), now).await;
        if kept.is_err()
            && let Ok(held) = self.tenant(&spec.id).await
            && held.state != TenantState::Removed
        {
            // Another command's record came before ours, and our consumers perhaps after its own.
            self.ensure_work(&held).await?;
        }
        kept?;
        Ok(record)
    }

    /// Makes what a tenant's record says, and then, when it is another than the one at `sequence`, the
    /// record.
    async fn keep_tenant(
        &self,
        record: &TenantRecord,
        sequence: Option<u64>,
        now: UnixMs,
    ) -> Result<(), AdminError> {
        self.ensure_work(record).await?;
        let Some(sequence) = sequence else { return Ok(()) };
        let by_account = api::account_key(&record.account);
        let slug: Entry<TenantId> = self.get("tenants", &by_account).await?;
        if slug.value.as_ref() != Some(&record.id) {
            self.put("tenants", &by_account, slug.sequence, &record.id).await?;
        }
        let put = self.put("tenants", record.id.as_str(), sequence, record).await;
        let followed = self.follow_record(&record.id, now).await;
        put?;
        followed?;
        // Another command that lost may have made its consumers meanwhile, and found no record yet.
        self.ensure_work(record).await?;
        Ok(())
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

    /// Shows the broker `account`, if it holds another, with every login that is revoked here or
    /// there: what somebody revoked is taken back by no later push.
    pub(crate) async fn ensure_account(
        &self,
        account: &RenderedAccount,
    ) -> Result<Option<String>, AdminError> {
        let (installation, failed) = (self.installation(), AdminError::Installation);
        for _ in 0..FOLLOWS_MAX {
            let stored = self.stored_claims(&account.claims.sub).await?;
            if let Some(stored) = &stored {
                installation.follow_revoked(stored).map_err(failed)?;
            }
            let issued = stored.as_ref().map(|stored| stored.iat);
            let wanted = installation.revoking(account.clone(), issued).map_err(failed)?;
            let same = |stored| comparable(&stored) == comparable(&wanted.claims);
            if stored.is_some_and(same) {
                return Ok(None);
            }
            self.push_account(&wanted.jwt).await?;
            // Another command may have revoked a login while this one was pushed.
            let after = installation.revoking(account.clone(), issued).map_err(failed)?;
            if after.claims.nats == wanted.claims.nats {
                return Ok(Some(format!("account {}", account.name)));
            }
        }
        Err(AdminError::NotStored)
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
        let done = Ok(Some(format!("consumer {}", spec.name)));
        if consumer_differences(spec, &made).is_empty() {
            return done;
        }
        // A server that has just started answers a consumer's first change with what it was before
        // (2.15, `initialInfo`); asked again, it says what it is.
        let subject = api::consumer_info(stream, &spec.name);
        let found = self.ask("read a consumer", subject, &json!({})).await?;
        match consumer_differences(spec, &found.ok_or(AdminError::Answer(what))?) {
            none if none.is_empty() => done,
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

//! A tenant's life on a running server: suspended, resumed, removed; its logins and its keys.
//!
//! Promises: the record says it first, so no service gives out new work while the broker is still
//! being told; what is suspended or removed has no connection when the call returns; every step may
//! be repeated, so a removal that was interrupted is completed by the same call. Refuses: to bring
//! a removed tenant back.

use crate::{
    admin::{Admin, AdminError, Entry, connect_with},
    api, creds,
    keys::Missing,
    login::LoginName,
    streams,
    terms::{Life, Terms},
};
use hotcell_schemas::{
    PoolId, TenantId, UnixMs, WorkerId,
    records::{KeyRecord, TenantRecord},
    tenancy::TenantState,
};
use serde_json::{Value, json};
use std::{path::PathBuf, time::Duration};

/// Looks for jobs of a removed tenant, at least: a service that read the record a second ago may
/// still make one.
const CANCEL_ROUNDS_MIN: usize = 5;

/// At most.
const CANCEL_ROUNDS_MAX: usize = 20;

/// Changes of one record that are followed while its account is shown to the broker: each is another
/// command that ran at the same moment.
pub(crate) const FOLLOWS_MAX: usize = 8;

/// Between two looks.
const CANCEL_PAUSE: Duration = Duration::from_millis(500);

/// What a removal ended.
#[derive(Debug, Clone)]
pub struct RemovedTenant {
    /// Its record, which stays: the name is not given again.
    pub record: TenantRecord,
    /// Jobs that had not ended.
    pub jobs_cancelled: usize,
    /// API keys.
    pub keys_revoked: usize,
}

/// How much of a tenant's work waits and runs in one pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolWork {
    /// The pool.
    pub pool: PoolId,
    /// Jobs that wait.
    pub waiting: u64,
    /// Jobs that were given out.
    pub running: u64,
}

impl Admin {
    /// The record of `tenant`.
    ///
    /// # Errors
    /// `UnknownTenant`; else as the broker says.
    pub async fn tenant(&self, tenant: &TenantId) -> Result<TenantRecord, AdminError> {
        Ok(self.stored_tenant(tenant).await?.1)
    }

    async fn stored_tenant(&self, tenant: &TenantId) -> Result<(u64, TenantRecord), AdminError> {
        let entry: Entry<TenantRecord> = self.get("tenants", tenant.as_str()).await?;
        let unknown = || AdminError::UnknownTenant(tenant.clone());
        Ok((entry.sequence, entry.value.ok_or_else(unknown)?))
    }

    /// Serves the tenant no more: no request, no new work, no connection. What runs may end.
    ///
    /// # Errors
    /// `UnknownTenant`, `Removed`; else as the broker says.
    pub async fn suspend_tenant(
        &self,
        tenant: &TenantId,
        now: UnixMs,
    ) -> Result<TenantRecord, AdminError> {
        let (sequence, mut record) = self.stored_tenant(tenant).await?;
        self.is_not_removed(&record)?;
        self.record(Some(tenant), "tenant_suspended", tenant.as_str(), now).await?;
        if record.state != TenantState::Suspended {
            record.state = TenantState::Suspended;
            self.put("tenants", tenant.as_str(), sequence, &record).await?;
        }
        self.ensure_state(&record, now).await?;
        Ok(record)
    }

    /// Serves the tenant again. Its logins of before, if they have not ended, work again.
    ///
    /// # Errors
    /// `UnknownTenant`, `Removed`; else as the broker says.
    pub async fn resume_tenant(
        &self,
        tenant: &TenantId,
        now: UnixMs,
    ) -> Result<TenantRecord, AdminError> {
        let (sequence, mut record) = self.stored_tenant(tenant).await?;
        self.is_not_removed(&record)?;
        self.record(Some(tenant), "tenant_resumed", tenant.as_str(), now).await?;
        let before = record.state;
        record.state = TenantState::Active;
        self.ensure_state(&record, now).await?;
        if before != TenantState::Active {
            let put = self.put("tenants", tenant.as_str(), sequence, &record).await;
            let followed = self.follow_record(tenant, now).await;
            put?;
            followed?;
        }
        Ok(record)
    }

    /// Removes the tenant: account, connections, keys, consumers and open jobs are ended here; its
    /// bytes are erased by the signer, which reads the record. Evidence stays, and so does the name.
    ///
    /// # Errors
    /// `UnknownTenant`; else as the broker says: call it again to complete.
    pub async fn remove_tenant(
        &self,
        tenant: &TenantId,
        now: UnixMs,
    ) -> Result<RemovedTenant, AdminError> {
        let (sequence, mut record) = self.stored_tenant(tenant).await?;
        self.record(Some(tenant), "tenant_removed", tenant.as_str(), now).await?;
        if record.state != TenantState::Removed {
            record.state = TenantState::Removed;
            // Connections first: whatever interrupts this, they are gone. The record's word follows.
            if self.knows(tenant) {
                self.ensure_state(&record, now).await?;
            }
            let put = self.put("tenants", tenant.as_str(), sequence, &record).await;
            let followed = match &put {
                Ok(()) => Ok(None),
                Err(_) => self.follow_record(tenant, now).await,
            };
            put?;
            followed?;
        }
        self.delete_account(&record, now).await?;
        let keys_revoked = self.revoke_keys(tenant, now).await?;
        let jobs_cancelled = self.cancel_jobs(tenant, now).await?;
        self.forget_named(tenant).await?;
        for pool in &record.pools {
            for spec in streams::tenant_consumers(&record.id, pool, record.concurrency) {
                let subject = api::consumer_delete(spec.stream.as_str(), &spec.name);
                self.ask("remove a consumer", subject, &json!({})).await?;
            }
        }
        self.installation().forget_tenant(tenant).map_err(AdminError::Installation)?;
        Ok(RemovedTenant { record, jobs_cancelled, keys_revoked })
    }

    /// Makes a login of a tenant's program, or gives the one that is there these terms; shows it to
    /// the broker, and returns its file when the broker took it.
    ///
    /// # Errors
    /// `UnknownTenant`, `NotServed`; `Connect` when the broker refuses the login.
    pub async fn add_program(
        &self,
        tenant: &TenantId,
        user: &LoginName,
        terms: &Terms,
        now: UnixMs,
    ) -> Result<PathBuf, AdminError> {
        let record = self.tenant(tenant).await?;
        self.is_not_removed(&record)?;
        if !record.state.is_active() {
            return Err(AdminError::NotServed(tenant.clone()));
        }
        self.record(Some(tenant), "login_issued", &user.to_string(), now).await?;
        let path = self
            .installation()
            .issue_program(tenant, user, terms, now)
            .map_err(AdminError::Installation)?;
        self.probe(&path).await?;
        Ok(path)
    }

    /// Makes a worker's login that ends after `life`, or signs the one that is there again; shows
    /// it to the broker.
    ///
    /// # Errors
    /// `Installation` (`Taken` when the worker has other pools); `Connect`.
    pub async fn add_worker_for(
        &self,
        name: &WorkerId,
        pools: &[PoolId],
        life: Life,
        now: UnixMs,
    ) -> Result<PathBuf, AdminError> {
        let path = self.add_worker(name, pools, now).await?;
        let login = crate::Login::Worker { name: name.clone(), pools: pools.to_vec() };
        self.installation().renew(&login, life, now).map_err(AdminError::Installation)?;
        self.probe(&path).await?;
        Ok(path)
    }

    /// Every API key, of all tenants. Only the keys' public halves are stored.
    ///
    /// # Errors
    /// As the broker says.
    pub async fn keys(&self) -> Result<Vec<KeyRecord>, AdminError> {
        let mut records = Vec::new();
        for id in self.bucket_keys("keys").await? {
            let entry: Entry<KeyRecord> = self.get("keys", &id).await?;
            records.extend(entry.value);
        }
        Ok(records)
    }

    /// The tenant's work in each of its pools.
    ///
    /// # Errors
    /// As the broker says.
    pub async fn work_of(&self, record: &TenantRecord) -> Result<Vec<PoolWork>, AdminError> {
        let mut all = Vec::new();
        for pool in &record.pools {
            let mut work = PoolWork { pool: pool.clone(), waiting: 0, running: 0 };
            for spec in streams::tenant_consumers(&record.id, pool, record.concurrency) {
                let subject = api::consumer_info(spec.stream.as_str(), &spec.name);
                let info = self.ask("read a consumer", subject, &json!({})).await?;
                let number = |name: &str| {
                    let info = info.as_ref().and_then(|info| info.get(name));
                    info.and_then(Value::as_u64).unwrap_or_default()
                };
                work.waiting += number("num_pending");
                work.running += number("num_ack_pending");
            }
            all.push(work);
        }
        Ok(all)
    }

    /// Connections of an account to the server that answers.
    ///
    /// # Errors
    /// `Request`, `Answer`.
    pub async fn connections(&self, account: &str) -> Result<u64, AdminError> {
        let what = "count connections";
        let answer = self.ask_sys(what, api::account_connections(account), String::new()).await?;
        let answer: Value =
            serde_json::from_slice(&answer).map_err(|_| AdminError::Answer(what))?;
        // An account that nobody ever used is not there to be counted.
        if answer.get("error").is_some() {
            return Ok(0);
        }
        let count = answer.pointer("/data/num_connections").and_then(Value::as_u64);
        count.ok_or(AdminError::Answer(what))
    }

    /// The keys of a bucket that are one token, in order.
    pub(crate) async fn bucket_keys(
        &self,
        bucket: &'static str,
    ) -> Result<Vec<String>, AdminError> {
        let stream = api::bucket_stream(bucket);
        let mut found = self.subjects(&stream, &api::bucket_key(bucket, api::ANY)).await?;
        found.sort();
        let key = |subject: String| Some(subject.rsplit('.').next()?.to_owned());
        Ok(found.into_iter().filter_map(key).collect())
    }

    /// The subjects of a stream under `filter`, page by page.
    pub(crate) async fn subjects(
        &self,
        stream: &str,
        filter: &str,
    ) -> Result<Vec<String>, AdminError> {
        let what = "list subjects";
        let mut all = Vec::new();
        loop {
            let body = json!({"subjects_filter": filter, "offset": all.len()});
            let info = self.ask(what, api::stream_info(stream), &body).await?;
            let info = info.ok_or(AdminError::Answer(what))?;
            let total = info.get("total").and_then(Value::as_u64).unwrap_or_default();
            let page = info.pointer("/state/subjects").and_then(Value::as_object);
            let before = all.len();
            all.extend(page.into_iter().flat_map(|map| map.keys().cloned()));
            if all.len() == before || u64::try_from(all.len()).unwrap_or(u64::MAX) >= total {
                return Ok(all);
            }
        }
    }

    pub(crate) fn is_not_removed(&self, record: &TenantRecord) -> Result<(), AdminError> {
        match record.state {
            TenantState::Removed => Err(AdminError::Removed(record.id.clone())),
            TenantState::Active | TenantState::Suspended => Ok(()),
        }
    }

    async fn ensure_state(&self, record: &TenantRecord, now: UnixMs) -> Result<(), AdminError> {
        let account = self
            .installation()
            .render_tenant_as(&record.id, record.state, now)
            .map_err(AdminError::Installation)?;
        self.ensure_account(&account).await?;
        Ok(())
    }

    /// Makes the broker's account of a tenant what its record says, and looks again: a record that was
    /// changed meanwhile is followed, so that no command takes back a suspension or a removal that
    /// it did not see. Returns what was changed.
    pub(crate) async fn follow_record(
        &self,
        tenant: &TenantId,
        now: UnixMs,
    ) -> Result<Option<String>, AdminError> {
        let (mut changed, mut seen) = (None, None);
        for _ in 0..FOLLOWS_MAX {
            let (sequence, record) = self.stored_tenant(tenant).await?;
            if seen == Some(sequence) {
                break;
            }
            seen = Some(sequence);
            if record.state == TenantState::Removed {
                self.delete_account(&record, now).await?;
                continue;
            }
            let account = self
                .installation()
                .render_tenant_as(&record.id, record.state, now)
                .map_err(AdminError::Installation)?;
            changed = self.ensure_account(&account).await?.or(changed);
        }
        Ok(changed)
    }

    /// First every login is revoked, which cuts the live connections, then the account goes.
    /// Returns what was removed.
    pub(crate) async fn delete_account(
        &self,
        record: &TenantRecord,
        now: UnixMs,
    ) -> Result<Option<String>, AdminError> {
        let known = self.installation().tenant_keys(&record.id, Missing::Refuse).is_ok();
        if known {
            self.ensure_state(record, now).await?;
        }
        if self.stored_account(&record.account).await?.is_none() {
            return Ok(None);
        }
        let what = "remove an account";
        let body = crate::accounts::removal(self.installation().keys(), &record.account, now)
            .map_err(|error| AdminError::Installation(crate::InitError::Jwt(error)))?;
        let answer = self.ask_sys(what, api::CLAIMS_DELETE.to_owned(), body).await?;
        crate::admin::read_answer(what, &answer)?;
        match self.stored_account(&record.account).await? {
            None => Ok(Some(format!("account of removed tenant {}", record.id))),
            Some(_) => Err(AdminError::NotStored),
        }
    }

    async fn revoke_keys(&self, tenant: &TenantId, now: UnixMs) -> Result<usize, AdminError> {
        let mut revoked = 0;
        for id in self.bucket_keys("keys").await? {
            let entry: Entry<KeyRecord> = self.get("keys", &id).await?;
            let Some(mut record) = entry.value else { continue };
            if record.tenant != *tenant || record.revoked_at.is_some() {
                continue;
            }
            record.revoked_at = Some(now);
            self.record(Some(tenant), "key_revoked", record.id.as_str(), now).await?;
            self.put("keys", record.id.as_str(), entry.sequence, &record).await?;
            revoked += 1;
        }
        Ok(revoked)
    }

    /// Ends every job of the tenant that has not ended, until none is found.
    async fn cancel_jobs(&self, tenant: &TenantId, now: UnixMs) -> Result<usize, AdminError> {
        let mut cancelled = 0;
        for round in 1..=CANCEL_ROUNDS_MAX {
            let open = self.open_jobs(tenant).await?;
            if open.is_empty() && round >= CANCEL_ROUNDS_MIN {
                break;
            }
            for job in &open {
                cancelled += usize::from(self.cancel_job(tenant, job, now).await?);
            }
            tokio::time::sleep(CANCEL_PAUSE).await;
        }
        Ok(cancelled)
    }

    /// Connects with a credential file, as its holder will.
    async fn probe(&self, path: &std::path::Path) -> Result<(), AdminError> {
        let creds = creds::read(path)
            .map_err(|error| AdminError::Installation(crate::InitError::Creds(error)))?;
        let client = connect_with(self.url(), &creds, self.tls()).await?;
        client.drain().await.map_err(|_| AdminError::Answer("end a connection"))
    }
}

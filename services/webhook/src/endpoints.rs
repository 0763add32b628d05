//! Tenants' endpoints: made, changed and removed on request, listed for the planner.
//!
//! Promises: the secret is made here, sealed at rest, and shown in the answer to what made it alone;
//! the audit log has the endpoint before it exists; an endpoint of another tenant is not there; a list
//! is one record and as many as it has, whatever was removed. Refuses: a URL that the egress guard
//! would refuse by its shape, and more endpoints than a tenant may have.

use crate::{
    egress::{Policy, Target},
    endpoint::{applied, begun, tidied},
    signature::Secret,
    vault::{Vault, VaultError},
};
use hotcell_schemas::{
    EndpointId, TenantId, UnixMs,
    envelope::OpenError,
    hook::{EndpointIndex, EndpointRecord, HookReply, HookRequest, OldSecret},
    limits::ENDPOINTS_MAX,
    records::{AuditAct, Refusal, TenantRecord},
    request::{WebhookChange, WebhookCreated, WebhookEvent, WebhookRequest},
    secret::WebhookSecret,
};
use hotcell_stage::{
    Bus, Incoming, Outgoing, PublishError, clock,
    kv::{Bucket, Entry, KvError},
    service::describe,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tracing::{info, warn};

/// A tenant's list is read again after this long, in milliseconds: another process may have made
/// an endpoint, and at most this long it misses events.
const LIST_AGE_MS: u64 = 1000;

/// Lists kept; then all are dropped, which only costs reads.
const LISTS_MAX: usize = 4096;

/// From an id in the index to its endpoint there are one audit record and one write: after so many
/// milliseconds who was to make it has died.
const MAKING_MS_MAX: u64 = 60_000;

/// Writes of one record that are tried: its rivals are attempts that are counted, and its owner.
const TRIES_MAX: u32 = 24;

/// Why an endpoint was not made, changed or listed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EndpointsError {
    #[error("the endpoints' bucket failed")]
    Bucket(#[source] KvError),
    #[error("the endpoint's audit record was not acknowledged")]
    Audit(#[source] PublishError),
    #[error("the endpoint's secret cannot be opened")]
    Vault(#[source] VaultError),
}

type List = Arc<Vec<EndpointRecord>>;

/// The endpoints of all tenants.
pub(crate) struct Endpoints {
    bus: Bus,
    bucket: Bucket,
    vault: Arc<Vault>,
    policy: Policy,
    lists: Mutex<HashMap<TenantId, (Instant, List)>>,
    /// One at a time, so that who comes second sees the record of who came first.
    creating: tokio::sync::Mutex<()>,
}

impl Endpoints {
    pub(crate) fn new(bus: Bus, vault: Arc<Vault>, policy: Policy) -> Self {
        let bucket = bus.bucket("endpoints");
        let (lists, creating) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { bus, bucket, vault, policy, lists, creating }
    }

    /// The endpoints of a tenant, at most [`LIST_AGE_MS`] old.
    pub(crate) async fn of(&self, tenant: &TenantId) -> Result<List, EndpointsError> {
        let age_max = Duration::from_millis(LIST_AGE_MS);
        let known = self.lists().get(tenant).cloned();
        if let Some((at, list)) = known
            && at.elapsed() < age_max
        {
            return Ok(list);
        }
        let read_at = Instant::now();
        let list = Arc::new(self.read(tenant).await?);
        let mut lists = self.lists();
        if lists.len() >= LISTS_MAX {
            lists.clear();
        }
        lists.insert(tenant.clone(), (read_at, Arc::clone(&list)));
        Ok(list)
    }

    fn lists(&self) -> std::sync::MutexGuard<'_, HashMap<TenantId, (Instant, List)>> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The endpoints of a tenant as they are now, the oldest first.
    pub(crate) async fn read(
        &self,
        tenant: &TenantId,
    ) -> Result<Vec<EndpointRecord>, EndpointsError> {
        let (index, _) = self.index(tenant).await?;
        let mut all = Vec::with_capacity(index.ids.len());
        for id in &index.ids {
            all.extend(self.get(tenant, id).await?.map(|entry| entry.value));
        }
        Ok(all)
    }

    /// One endpoint of a tenant.
    pub(crate) async fn get(
        &self,
        tenant: &TenantId,
        id: &EndpointId,
    ) -> Result<Option<Entry<EndpointRecord>>, EndpointsError> {
        self.bucket.get(&format!("{tenant}.{id}")).await.map_err(EndpointsError::Bucket)
    }

    /// The tenant's index with its revision; for one of before, what its endpoints' records say.
    async fn index(&self, tenant: &TenantId) -> Result<(EndpointIndex, u64), EndpointsError> {
        let found = self.bucket.look::<EndpointIndex>(tenant.as_str()).await;
        let (entry, revision) = found.map_err(EndpointsError::Bucket)?;
        if let Some(entry) = entry {
            return Ok((entry.value, revision));
        }
        let found = self.bucket.scan::<EndpointRecord>(&format!("{tenant}.")).await;
        let mut found = found.map_err(EndpointsError::Bucket)?;
        found.sort_by_key(|entry| entry.value.created_at);
        let ids = found.into_iter().map(|entry| entry.value.id).collect();
        Ok((EndpointIndex { ids }, revision))
    }

    /// Changes the tenant's index; nothing where `change` refuses.
    async fn indexed<T>(
        &self,
        tenant: &TenantId,
        mut change: impl FnMut(&mut EndpointIndex) -> Result<(), T>,
    ) -> Result<Result<(), T>, EndpointsError> {
        for _ in 0..TRIES_MAX {
            let (mut index, revision) = self.index(tenant).await?;
            if let Err(refused) = change(&mut index) {
                return Ok(Err(refused));
            }
            match self.bucket.update(tenant.as_str(), &index, revision).await {
                Ok(_) => return Ok(Ok(())),
                Err(KvError::Conflict) => {}
                Err(error) => return Err(EndpointsError::Bucket(error)),
            }
        }
        Err(EndpointsError::Bucket(KvError::Conflict))
    }

    /// Changes one endpoint by compare-and-set: `None` where there is none, or nothing changes.
    async fn changed(
        &self,
        tenant: &TenantId,
        id: &EndpointId,
        mut change: impl FnMut(EndpointRecord) -> EndpointRecord,
    ) -> Result<Option<EndpointRecord>, EndpointsError> {
        for _ in 0..TRIES_MAX {
            let Some(entry) = self.get(tenant, id).await? else { return Ok(None) };
            let next = tidied(change(entry.value.clone()), clock::now());
            if next == entry.value {
                return Ok(Some(next));
            }
            match self.bucket.update(&entry.key, &next, entry.revision).await {
                Ok(_) => {
                    self.lists().remove(tenant);
                    return Ok(Some(next));
                }
                Err(KvError::Conflict) => {}
                Err(error) => return Err(EndpointsError::Bucket(error)),
            }
        }
        Err(EndpointsError::Bucket(KvError::Conflict))
    }

    /// Another URL, other events, on or off; the field and the rule that it breaks.
    pub(crate) async fn change(
        &self,
        tenant: &TenantId,
        id: &EndpointId,
        asked: &WebhookChange,
    ) -> Result<Result<Option<EndpointRecord>, (&'static str, String)>, EndpointsError> {
        let checked = asked.url.as_deref().map_or(Ok(()), |url| target(url, self.policy).map(drop));
        let checked = checked.and_then(|()| once(asked.events.as_deref().unwrap_or_default()));
        if let Err(refused) = checked {
            return Ok(Err(refused));
        }
        let now = clock::now();
        Ok(Ok(self.changed(tenant, id, |record| applied(record, asked, now)).await?))
    }

    /// Another secret, shown this once; the old one signs for `old_secs` more. A repeat of the same
    /// `request` gives the same secret: the first answer may have been lost.
    pub(crate) async fn rotate(
        &self,
        tenant: &TenantId,
        id: &EndpointId,
        request: &str,
        old_secs: u32,
    ) -> Result<Option<(EndpointRecord, Secret)>, EndpointsError> {
        let (secret, now) = (Secret::new(clock::random()), clock::now());
        let sealed = self.vault.seal(&secret, tenant, id, clock::random());
        let rotated = |record: EndpointRecord| {
            if record.rotation.as_deref() == Some(request) {
                return record;
            }
            let until = now.plus_ms(u64::from(old_secs) * 1000);
            EndpointRecord {
                old_secret: Some(OldSecret { sealed: record.secret_sealed, until }),
                secret_sealed: sealed.clone(),
                rotation: Some(request.to_owned()),
                ..record
            }
        };
        let Some(record) = self.changed(tenant, id, rotated).await? else { return Ok(None) };
        let secret = self.vault.open(&record.secret_sealed, tenant, id);
        Ok(Some((record, secret.map_err(EndpointsError::Vault)?)))
    }

    /// Removes an endpoint; as it was.
    pub(crate) async fn remove(
        &self,
        tenant: &TenantId,
        id: &EndpointId,
    ) -> Result<Option<EndpointRecord>, EndpointsError> {
        for _ in 0..TRIES_MAX {
            let Some(entry) = self.get(tenant, id).await? else { return Ok(None) };
            match self.bucket.remove(&entry.key, entry.revision).await {
                Ok(_) => {
                    self.unplace(tenant, id).await;
                    self.lists().remove(tenant);
                    return Ok(Some(entry.value));
                }
                Err(KvError::Conflict) => {}
                Err(error) => return Err(EndpointsError::Bucket(error)),
            }
        }
        Err(EndpointsError::Bucket(KvError::Conflict))
    }

    /// Takes an id out of the index. Its place is free in any case, soon: an id without a record counts
    /// for nothing.
    async fn unplace(&self, tenant: &TenantId, id: &EndpointId) {
        let gone = |index: &mut EndpointIndex| {
            index.ids.retain(|other| other != id);
            Ok::<_, std::convert::Infallible>(())
        };
        if let Err(error) = self.indexed(tenant, gone).await {
            warn!(endpoint = %id, error = %describe(&error), "id stays in the index");
        }
    }

    /// Makes an endpoint. A repeat makes another one.
    async fn create(&self, ask: &HookRequest) -> Result<HookReply, EndpointsError> {
        let HookRequest { tenant, request } = ask;
        let target = match check(request, self.policy) {
            Ok(target) => target,
            Err((field, rule)) => return Ok(refused(field, rule)),
        };
        let _one_at_a_time = self.creating.lock().await;
        let (limit, now) = (self.limit(tenant).await?, clock::now());
        let id = EndpointId::new(now.0, clock::random());
        let standing: Vec<_> = self.read(tenant).await?.into_iter().map(|it| it.id).collect();
        let placed = self.indexed(tenant, |index| place(index, &standing, &id, limit, now)).await?;
        if let Err(used) = placed {
            let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            return Ok(HookReply::OverQuota { limit: number(limit), used: number(used) });
        }
        let secret = Secret::new(clock::random());
        let record = self.record(tenant, request, &id, &secret, now);
        let host = target.host().to_owned();
        let act = AuditAct::EndpointCreated { endpoint: id.clone(), host };
        let audit = Outgoing::audit(Some(tenant), act, format!("endpoint.{id}"));
        if let Err(error) = self.bus.publish(&audit).await {
            self.unplace(tenant, &id).await;
            return Err(EndpointsError::Audit(error));
        }
        let stored = self.bucket.create(&format!("{tenant}.{id}"), &record).await;
        stored.map_err(EndpointsError::Bucket)?;
        self.lists().remove(tenant);
        info!(%tenant, endpoint = %id, "endpoint created");
        let EndpointRecord { url, events, .. } = record;
        let created =
            WebhookCreated { id, url, events, secret: WebhookSecret::new(secret.reveal()) };
        Ok(HookReply::Created { created })
    }

    /// Endpoints that `tenant` may have: what its plan holds, within the platform's bound. A tenant
    /// without a record has none.
    async fn limit(&self, tenant: &TenantId) -> Result<usize, EndpointsError> {
        let record = self.bus.bucket("tenants").get::<TenantRecord>(tenant.as_str()).await;
        let record = record.map_err(EndpointsError::Bucket)?;
        let max = record.map_or(0, |entry| entry.value.quotas.webhooks_max);
        Ok(usize::try_from(max).unwrap_or(usize::MAX).min(ENDPOINTS_MAX))
    }

    fn record(
        &self,
        tenant: &TenantId,
        request: &WebhookRequest,
        id: &EndpointId,
        secret: &Secret,
        now: UnixMs,
    ) -> EndpointRecord {
        EndpointRecord {
            id: id.clone(),
            tenant: tenant.clone(),
            url: request.url.clone(),
            events: request.events.clone(),
            secret_sealed: self.vault.seal(secret, tenant, id, clock::random()),
            created_at: now,
            failures: 0,
            disabled_at: None,
            disabled_for: None,
            failing: Vec::new(),
            old_secret: None,
            rotation: None,
        }
    }
}

/// Puts an id into the index; how many there are, where it is full. Ids whose endpoint was never
/// made, or is gone, give their places; not one that another process is making.
fn place(
    index: &mut EndpointIndex,
    standing: &[EndpointId],
    id: &EndpointId,
    limit: usize,
    now: UnixMs,
) -> Result<(), usize> {
    let is_in_making = |id: &EndpointId| now.since_ms(begun(id.as_str())) < MAKING_MS_MAX;
    index.ids.retain(|other| standing.contains(other) || is_in_making(other));
    if index.ids.len() >= limit {
        return Err(index.ids.len());
    }
    index.ids.push(id.clone());
    Ok(())
}

fn refused(field: &str, rule: String) -> HookReply {
    HookReply::Refused { field: field.to_owned(), rule }
}

fn target(url: &str, policy: Policy) -> Result<Target, (&'static str, String)> {
    Target::parse(url, policy).map_err(|error| ("url", error.to_string()))
}

fn once(events: &[WebhookEvent]) -> Result<(), (&'static str, String)> {
    if WebhookEvent::are_distinct(events) {
        return Ok(());
    }
    Err(("events", "must name each event at most once".to_owned()))
}

fn check(request: &WebhookRequest, policy: Policy) -> Result<Target, (&'static str, String)> {
    let target = target(&request.url, policy)?;
    once(&request.events).map(|()| target)
}

/// Whether an endpoint is to be told of an event, once it is enabled.
pub(crate) fn wants(endpoint: &EndpointRecord, event: WebhookEvent) -> bool {
    endpoint.events.is_empty() || endpoint.events.contains(&event)
}

/// Serves `hooks.intake.create`. What fails on our side gets no answer: intake says so to its
/// client, who may repeat.
pub(crate) async fn handle(endpoints: Arc<Endpoints>, incoming: Incoming) {
    let ask = match incoming.open::<HookRequest>() {
        Ok(ask) => ask,
        Err(error) => return unbelieved(&endpoints.bus, incoming.subject(), &error).await,
    };
    match endpoints.create(ask.get()).await {
        Ok(reply) => incoming.answer(&reply).await,
        Err(error) => warn!(error = %describe(&error), "endpoint not created"),
    }
}

/// Records a request that is not believed.
pub(crate) async fn unbelieved(bus: &Bus, subject: &str, error: &OpenError) {
    let (by, subject) = (bus.role(), subject.to_owned());
    warn!(%subject, %error, "request refused");
    let reason = error.to_string();
    let id = format!("refused.{by}.{}", hex::encode(clock::random::<16>()));
    let act = AuditAct::Refused { by, what: Refusal::Envelope, subject, reason };
    if let Err(error) = bus.publish(&Outgoing::audit(None, act, id)).await {
        warn!(%error, "refusal not recorded");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::endpoint;

    #[test]
    fn a_request_is_refused_by_field_and_rule() {
        let check = |url: &str, events: &[WebhookEvent], expect: Option<&str>| {
            let request = WebhookRequest { url: url.to_owned(), events: events.to_vec() };
            let found = check(&request, Policy { allow_loopback: false });
            assert_eq!(found.err().map(|(field, _)| field), expect, "{url} {events:?}");
        };
        check("https://example.com/", &[], None);
        check("https://example.com/", &WebhookEvent::ALL, None);
        check("https://example.com/", &[WebhookEvent::Failed; 2], Some("events"));
        check("http://example.com/", &[], Some("url"));
        check("https://10.1.2.3/", &[], Some("url"));
    }

    #[test]
    fn an_endpoint_is_told_what_it_asked_for() {
        let mut endpoint = endpoint();
        endpoint.events = vec![WebhookEvent::Failed];
        assert!(wants(&endpoint, WebhookEvent::Failed));
        assert!(!wants(&endpoint, WebhookEvent::Completed));
        endpoint.events.clear();
        assert!(wants(&endpoint, WebhookEvent::Completed));
        endpoint.disabled_at = Some(UnixMs(2));
        assert!(wants(&endpoint, WebhookEvent::Completed), "what it misses is on record");
    }

    #[test]
    fn an_index_keeps_places_for_what_stands_alone() {
        let id = |n: u8| EndpointId::new(u64::from(n), [n; 10]);
        let mut index = EndpointIndex { ids: vec![id(1), id(2), id(3)] };
        let now = UnixMs(MAKING_MS_MAX + 2);
        assert_eq!(place(&mut index, &[id(1), id(3)], &id(4), 2, now), Err(2));
        assert_eq!(place(&mut index, &[id(1), id(3)], &id(4), 3, now), Ok(()));
        // One that was put there a minute ago is of a process that died, a later one is not yet.
        assert_eq!(index.ids, [id(1), id(3), id(4)]);
    }
}

//! Tenants' endpoints: made on request, listed for the planner.
//!
//! Promises: the secret is made here, sealed at rest, and in exactly one answer; the audit log has
//! the endpoint before it exists. Refuses: a URL that the egress guard would refuse by its shape,
//! and more endpoints than a tenant may have.

use crate::{
    egress::{Policy, Target},
    signature::Secret,
    vault::Vault,
};
use hotcell_schemas::{
    EndpointId, TenantId, UnixMs,
    hook::{EndpointRecord, HookReply, HookRequest},
    limits::ENDPOINTS_MAX,
    records::{AuditAct, Refusal, TenantRecord},
    request::{WebhookCreated, WebhookEvent, WebhookRequest},
    secret::WebhookSecret,
};
use hotcell_stage::{
    Bus, Incoming, Outgoing, PublishError, clock,
    kv::{Bucket, KvError},
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

/// Why an endpoint was not made or listed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EndpointsError {
    #[error("the endpoints' bucket failed")]
    Bucket(#[source] KvError),
    #[error("the endpoint's audit record was not acknowledged")]
    Audit(#[source] PublishError),
}

type List = Arc<Vec<EndpointRecord>>;

/// The endpoints of all tenants.
pub(crate) struct Endpoints {
    bus: Bus,
    bucket: Bucket,
    vault: Arc<Vault>,
    policy: Policy,
    lists: Mutex<HashMap<TenantId, (Instant, List)>>,
    /// One at a time, so that the count holds; with several processes it may be passed by a few.
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

    async fn read(&self, tenant: &TenantId) -> Result<Vec<EndpointRecord>, EndpointsError> {
        let found = self.bucket.scan(&format!("{tenant}.")).await;
        let found = found.map_err(EndpointsError::Bucket)?;
        Ok(found.into_iter().map(|entry| entry.value).collect())
    }

    /// Makes an endpoint. A repeat makes another one.
    async fn create(&self, ask: &HookRequest) -> Result<HookReply, EndpointsError> {
        let HookRequest { tenant, request } = ask;
        let target = match check(request, self.policy) {
            Ok(target) => target,
            Err((field, rule)) => return Ok(refused(field, rule)),
        };
        let _one_at_a_time = self.creating.lock().await;
        let (limit, used) = (self.limit(tenant).await?, self.read(tenant).await?.len());
        if used >= limit {
            let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            return Ok(HookReply::OverQuota { limit: number(limit), used: number(used) });
        }
        let now = clock::now();
        let id = EndpointId::new(now.0, clock::random());
        let secret = Secret::new(clock::random());
        let record = self.record(tenant, request, &id, &secret, now);
        let host = target.host().to_owned();
        let act = AuditAct::EndpointCreated { endpoint: id.clone(), host };
        let audit = Outgoing::audit(Some(tenant), act, format!("endpoint.{id}"));
        self.bus.publish(&audit).await.map_err(EndpointsError::Audit)?;
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
        }
    }
}

fn refused(field: &str, rule: String) -> HookReply {
    HookReply::Refused { field: field.to_owned(), rule }
}

fn check(request: &WebhookRequest, policy: Policy) -> Result<Target, (&'static str, String)> {
    let target = Target::parse(&request.url, policy).map_err(|error| ("url", error.to_string()))?;
    let mut events = request.events.clone();
    events.sort_unstable();
    events.dedup();
    if events.len() != request.events.len() {
        return Err(("events", "must name each event at most once".to_owned()));
    }
    Ok(target)
}

/// Whether an endpoint is to be told of an event.
pub(crate) fn wants(endpoint: &EndpointRecord, event: WebhookEvent) -> bool {
    let named = endpoint.events.is_empty() || endpoint.events.contains(&event);
    named && endpoint.disabled_at.is_none()
}

/// Serves `hooks.intake.create`. What fails on our side gets no answer: intake says so to its
/// client, who may repeat.
pub(crate) async fn handle(endpoints: Arc<Endpoints>, incoming: Incoming) {
    let ask = match incoming.open::<HookRequest>() {
        Ok(ask) => ask,
        Err(error) => {
            let (by, subject) = (endpoints.bus.role(), incoming.subject().to_owned());
            warn!(%subject, %error, "request refused");
            let reason = error.to_string();
            let id = format!("refused.{by}.{}", hex::encode(clock::random::<16>()));
            let act = AuditAct::Refused { by, what: Refusal::Envelope, subject, reason };
            if let Err(error) = endpoints.bus.publish(&Outgoing::audit(None, act, id)).await {
                warn!(%error, "refusal not recorded");
            }
            return;
        }
    };
    match endpoints.create(ask.get()).await {
        Ok(reply) => incoming.answer(&reply).await,
        Err(error) => {
            let error = hotcell_stage::service::describe(&error);
            warn!(%error, "endpoint not created");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let mut endpoint = EndpointRecord {
            id: EndpointId::new(1, [1; 10]),
            tenant: "acme".parse().unwrap(),
            url: "https://example.com/".to_owned(),
            events: vec![WebhookEvent::Failed],
            secret_sealed: String::new(),
            created_at: UnixMs(1),
            failures: 0,
            disabled_at: None,
        };
        assert!(wants(&endpoint, WebhookEvent::Failed));
        assert!(!wants(&endpoint, WebhookEvent::Completed));
        endpoint.events.clear();
        assert!(wants(&endpoint, WebhookEvent::Completed));
        endpoint.disabled_at = Some(UnixMs(2));
        assert!(!wants(&endpoint, WebhookEvent::Completed));
    }
}

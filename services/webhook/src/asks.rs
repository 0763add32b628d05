//! Serves `hooks.intake.ask`: what intake asks about endpoints that there are.
//!
//! Promises: each verb may be asked twice, since an answer can be lost; whatever names an endpoint is
//! looked up under the asking tenant, so another's is not there. What fails on our side gets no
//! answer: intake says so to its client, who may repeat.

use crate::{
    deliveries::{Deliveries, DeliveriesError, Listed},
    endpoint::view,
    endpoints::{Endpoints, EndpointsError, unbelieved},
};
use hotcell_schemas::{
    EndpointId, TenantId,
    hook::{EndpointRecord, HookAsk, HookAskReply, HookConflict, HookVerb},
    request::WebhookChange,
    secret::WebhookSecret,
};
use hotcell_stage::{Bus, Incoming, clock, kv::KvError, service::describe};
use std::sync::Arc;
use tracing::{info, warn};

/// Why an ask has no answer.
#[derive(Debug, thiserror::Error)]
enum AsksError {
    #[error("an endpoint was not read or written")]
    Endpoints(#[source] EndpointsError),
    #[error("a delivery was not read or made")]
    Deliveries(#[source] DeliveriesError),
}

/// What answers.
pub(crate) struct Asks {
    pub(crate) bus: Bus,
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) deliveries: Deliveries,
}

fn shown(record: EndpointRecord) -> HookAskReply {
    HookAskReply::Endpoint { endpoint: view(record, clock::now()) }
}

fn shown_or_missing(record: Option<EndpointRecord>) -> HookAskReply {
    record.map_or(HookAskReply::Missing {}, shown)
}

/// Handles one.
pub(crate) async fn handle(asks: Arc<Asks>, incoming: Incoming) {
    let ask = match incoming.open::<HookAsk>() {
        Ok(ask) => ask,
        Err(error) => return unbelieved(&asks.bus, incoming.subject(), &error).await,
    };
    let HookAsk { tenant, verb } = ask.get();
    match asks.answer(tenant, verb).await {
        Ok(reply) => incoming.answer(&reply).await,
        Err(AsksError::Endpoints(EndpointsError::Bucket(KvError::Conflict))) => {
            incoming.answer(&HookAskReply::Conflict { why: HookConflict::Busy }).await;
        }
        Err(error) => warn!(%tenant, error = %describe(&error), "nothing was answered"),
    }
}

impl Asks {
    async fn answer(&self, tenant: &TenantId, verb: &HookVerb) -> Result<HookAskReply, AsksError> {
        let failed = AsksError::Endpoints;
        Ok(match verb {
            HookVerb::List {} => {
                let (all, now) = (self.endpoints.read(tenant).await.map_err(failed)?, clock::now());
                let endpoints = all.into_iter().map(|record| view(record, now)).collect();
                HookAskReply::Endpoints { endpoints }
            }
            HookVerb::Get { endpoint } => shown_or_missing(self.find(tenant, endpoint).await?),
            HookVerb::Change { endpoint, change } => self.change(tenant, endpoint, change).await?,
            HookVerb::Rotate { endpoint, request, old_secret_secs } => {
                let rotated = self.endpoints.rotate(tenant, endpoint, request, *old_secret_secs);
                let Some((record, secret)) = rotated.await.map_err(failed)? else {
                    return Ok(HookAskReply::Missing {});
                };
                info!(%tenant, %endpoint, "secret rotated");
                let endpoint = view(record, clock::now());
                HookAskReply::Rotated { endpoint, secret: WebhookSecret::new(secret.reveal()) }
            }
            HookVerb::Remove { endpoint } => {
                let removed = self.endpoints.remove(tenant, endpoint).await.map_err(failed)?;
                info!(%tenant, %endpoint, was_there = removed.is_some(), "endpoint removed");
                shown_or_missing(removed)
            }
            HookVerb::Test { endpoint, delivery } => match self.find(tenant, endpoint).await? {
                Some(found) => self.deliveries.test(&found, delivery).await.map_err(of_delivery)?,
                None => HookAskReply::Missing {},
            },
            HookVerb::Deliveries { endpoint, limit, from, state } => {
                if self.find(tenant, endpoint).await?.is_none() {
                    return Ok(HookAskReply::Missing {});
                }
                let ask = Listed { limit: *limit, from: *from, state: *state };
                let listed = self.deliveries.list(tenant, endpoint, ask).await;
                let (deliveries, next) = listed.map_err(of_delivery)?;
                HookAskReply::Deliveries { deliveries, next }
            }
            HookVerb::Delivery { endpoint, delivery } => {
                let found = self.deliveries.of(tenant, endpoint, delivery).await;
                let deliveries: Vec<_> = found.map_err(of_delivery)?.into_iter().collect();
                HookAskReply::Deliveries { deliveries, next: None }
            }
            HookVerb::Replay { endpoint, delivery } => match self.find(tenant, endpoint).await? {
                Some(found) => {
                    self.deliveries.replay(&found, delivery).await.map_err(of_delivery)?
                }
                None => HookAskReply::Missing {},
            },
        })
    }

    async fn find(
        &self,
        tenant: &TenantId,
        endpoint: &EndpointId,
    ) -> Result<Option<EndpointRecord>, AsksError> {
        let found = self.endpoints.get(tenant, endpoint).await.map_err(AsksError::Endpoints)?;
        Ok(found.map(|entry| entry.value))
    }

    async fn change(
        &self,
        tenant: &TenantId,
        endpoint: &EndpointId,
        change: &WebhookChange,
    ) -> Result<HookAskReply, AsksError> {
        let changed = self.endpoints.change(tenant, endpoint, change).await;
        Ok(match changed.map_err(AsksError::Endpoints)? {
            Ok(record) => shown_or_missing(record),
            Err((field, rule)) => HookAskReply::Refused { field: field.to_owned(), rule },
        })
    }
}

fn of_delivery(error: DeliveriesError) -> AsksError {
    AsksError::Deliveries(error)
}

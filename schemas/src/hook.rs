//! Webhook endpoints and deliveries as messages and records.

use crate::{
    DeliveryId, EndpointId, Job, Subject, TenantId, UnixMs,
    envelope::Message,
    request::{WebhookCreated, WebhookEvent, WebhookRequest},
};
use serde::{Deserialize, Serialize};

/// Intake asks the webhook service to make an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookRequest {
    /// For whom.
    pub tenant: TenantId,
    /// What the tenant asked.
    pub request: WebhookRequest,
}

/// The answer to [`HookRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "answer", rename_all = "snake_case")]
pub enum HookReply {
    /// Made; holds the secret, once.
    Created {
        /// The endpoint.
        created: WebhookCreated,
    },
    /// Refused: the tenant has as many as its plan holds.
    OverQuota {
        /// Endpoints that it may have.
        limit: u32,
        /// Endpoints that it has.
        used: u32,
    },
    /// Refused.
    Refused {
        /// The field of the request that breaks a rule.
        field: String,
        /// The rule.
        rule: String,
    },
}

/// An endpoint at rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointRecord {
    /// Its id.
    pub id: EndpointId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Where it delivers.
    pub url: String,
    /// Which events.
    pub events: Vec<WebhookEvent>,
    /// The secret, sealed with AEAD by the webhook service's own key; base64.
    pub secret_sealed: String,
    /// When it was made.
    pub created_at: UnixMs,
    /// Consecutive failed attempts, over all events.
    pub failures: u32,
    /// Set when the endpoint was disabled.
    pub disabled_at: Option<UnixMs>,
}

/// One delivery of one event to one endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delivery {
    /// Its id: the `webhook-id`, stable over retries.
    pub id: DeliveryId,
    /// The endpoint.
    pub endpoint: EndpointId,
    /// The event.
    pub event: WebhookEvent,
    /// Stream sequence of the event: the job's order.
    pub sequence: u64,
    /// When the event happened.
    pub at: UnixMs,
    /// The job as of the event.
    pub job: Job,
}

/// State of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// Waiting for its next attempt.
    Retrying,
    /// Received with a 2xx.
    Succeeded,
    /// Every attempt failed, or the endpoint is gone.
    Exhausted,
}

/// One attempt at a delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeliveryAttempt {
    /// When.
    pub at: UnixMs,
    /// HTTP status, when there was an answer.
    pub status: Option<u16>,
    /// How long it took, in milliseconds.
    pub elapsed_ms: u64,
    /// Class of the failure: `timeout`, `connect`, `tls`, `status`, `refused_address`.
    pub error: Option<String>,
}

/// A delivery at rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeliveryRecord {
    /// Its id.
    pub id: DeliveryId,
    /// Whose it is.
    pub tenant: TenantId,
    /// The endpoint.
    pub endpoint: EndpointId,
    /// The event.
    pub event: WebhookEvent,
    /// Its state.
    pub state: DeliveryState,
    /// When the next attempt is due.
    pub next_at: Option<UnixMs>,
    /// Every attempt, oldest first.
    pub attempts: Vec<DeliveryAttempt>,
}

impl Message for HookRequest {
    const TYPE: &'static str = "hook_request";
    const VERSION: u16 = 1;
}
impl Message for HookReply {
    const TYPE: &'static str = "hook_reply";
    const VERSION: u16 = 1;
}
impl Message for Delivery {
    const TYPE: &'static str = "delivery";
    const VERSION: u16 = 1;

    fn is_about(&self, subject: &Subject) -> bool {
        *subject == Subject::hook_out(&self.job.tenant, &self.endpoint, &self.id)
    }
}

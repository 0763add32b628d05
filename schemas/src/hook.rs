//! Webhook endpoints and deliveries as messages and records.

use crate::{
    DeliveryId, EndpointId, Job, JobId, Subject, TenantId, UnixMs,
    envelope::{Message, messages},
    request::{WebhookChange, WebhookCreated, WebhookEvent, WebhookRequest},
    secret::WebhookSecret,
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

/// Intake asks the webhook service about endpoints and deliveries that there are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookAsk {
    /// For whom.
    pub tenant: TenantId,
    /// What.
    pub verb: HookVerb,
}

/// What is asked. Each may be asked twice, when its first answer was lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "verb", rename_all = "snake_case")]
pub enum HookVerb {
    /// Every endpoint.
    List {},
    /// One endpoint.
    Get {
        /// Which.
        endpoint: EndpointId,
    },
    /// Another URL, other events, on or off.
    Change {
        /// Which.
        endpoint: EndpointId,
        /// What changes.
        change: WebhookChange,
    },
    /// Another secret.
    Rotate {
        /// Which.
        endpoint: EndpointId,
        /// The request, so that its repeat gives the same secret: 32 digits.
        request: String,
        /// How long the old secret signs as well, in seconds.
        old_secret_secs: u32,
    },
    /// No endpoint any more.
    Remove {
        /// Which.
        endpoint: EndpointId,
    },
    /// One delivery that tells of nothing.
    Test {
        /// Where to.
        endpoint: EndpointId,
        /// Its id, so that a repeat makes no second one.
        delivery: DeliveryId,
    },
    /// What was delivered, newest first.
    Deliveries {
        /// Where to.
        endpoint: EndpointId,
        /// At most so many.
        limit: u32,
        /// Where the last answer ended.
        from: Option<DeliveryPlace>,
        /// Only those in this state.
        state: Option<DeliveryState>,
    },
    /// One delivery: a list of it.
    Delivery {
        /// Where to.
        endpoint: EndpointId,
        /// Which.
        delivery: DeliveryId,
    },
    /// A delivery once more.
    Replay {
        /// Where to.
        endpoint: EndpointId,
        /// Which.
        delivery: DeliveryId,
    },
}

/// The answer to [`HookAsk`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "answer", rename_all = "snake_case")]
pub enum HookAskReply {
    /// Every endpoint, the oldest first.
    Endpoints {
        /// Them.
        endpoints: Vec<EndpointView>,
    },
    /// One endpoint, as it is now, or as it was when it was removed.
    Endpoint {
        /// It.
        endpoint: EndpointView,
    },
    /// The new secret, once.
    Rotated {
        /// The endpoint, as it is now.
        endpoint: EndpointView,
        /// Its secret.
        secret: WebhookSecret,
    },
    /// A delivery is on its way.
    Queued {
        /// Which.
        delivery: DeliveryId,
    },
    /// Deliveries, newest first.
    Deliveries {
        /// Them.
        deliveries: Vec<DeliveryRecord>,
        /// Where to go on; nothing at the end.
        next: Option<DeliveryPlace>,
    },
    /// The tenant has no such endpoint, or the endpoint no such delivery.
    Missing {},
    /// Refused.
    Refused {
        /// The field of the request that breaks a rule.
        field: String,
        /// The rule.
        rule: String,
    },
    /// Not now: the sentence says why.
    Conflict {
        /// Why.
        why: HookConflict,
    },
}

/// Why something cannot be done with an endpoint or a delivery as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookConflict {
    /// The endpoint is disabled: it is told nothing.
    Disabled,
    /// The delivery's schedule is not spent.
    Retrying,
    /// The delivery was a test, of which nothing is kept that could be told again.
    Test,
    /// The event is not, or no longer, known.
    Forgotten,
    /// Others changed it at the same moment, again and again.
    Busy,
}

/// A place in the list of an endpoint's deliveries: so many ids of a page are still to be shown,
/// then the pages before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeliveryPlace {
    /// The page.
    pub page: u64,
    /// Ids of it.
    pub left: u32,
}

/// An endpoint without its secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointView {
    /// Its id.
    pub id: EndpointId,
    /// Where it delivers.
    pub url: String,
    /// Which events.
    pub events: Vec<WebhookEvent>,
    /// When it was made.
    pub created_at: UnixMs,
    /// Consecutive failed attempts, over all events.
    pub failures: u32,
    /// The last of them.
    pub last_failure: Option<FailedAttempt>,
    /// Set while it is disabled.
    pub disabled_at: Option<UnixMs>,
    /// Why it is.
    pub disabled_for: Option<DisabledFor>,
    /// Until when the secret before this one signs as well.
    pub old_secret_until: Option<UnixMs>,
}

/// Why an endpoint is disabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DisabledFor {
    /// Its attempts failed, one after another.
    Failures,
    /// Its tenant wanted it.
    Request,
}

/// A failed attempt that an endpoint's breaker has counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailedAttempt {
    /// Of which delivery.
    pub delivery: DeliveryId,
    /// Its number there, from 1.
    pub number: u32,
    /// When it had failed.
    pub at: UnixMs,
    /// HTTP status, when there was an answer.
    pub status: Option<u16>,
    /// Class of the failure, as in [`DeliveryAttempt`].
    pub error: String,
}

/// A secret that was replaced, and signs for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OldSecret {
    /// Sealed as the present one is.
    pub sealed: String,
    /// Until when.
    pub until: UnixMs,
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
    /// Why it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled_for: Option<DisabledFor>,
    /// The failed attempts that are counted in `failures`: an attempt that is reported twice is
    /// found here, and counted once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failing: Vec<FailedAttempt>,
    /// The secret before this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_secret: Option<OldSecret>,
    /// The request that made the present secret, when it was a rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<String>,
}

/// The endpoints of a tenant; bucket `endpoints`, key `<tenant>`. An id is here before its record
/// is, and goes after it. A tenant of before has none until its endpoints change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointIndex {
    /// Their ids, in order of their making.
    pub ids: Vec<EndpointId>,
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

/// A delivery that tells of nothing: version 2 of [`Delivery`], beside which version 1 stays. What
/// tells of jobs is not written in it, so that a service of before goes on delivering that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestDelivery {
    /// Its id: the `webhook-id`.
    pub id: DeliveryId,
    /// Whose endpoint.
    pub tenant: TenantId,
    /// The endpoint.
    pub endpoint: EndpointId,
    /// When it was asked for.
    pub at: UnixMs,
}

/// What a delivery tells of: the `type` of its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum DeliveryEvent {
    /// The end of a job.
    Job(WebhookEvent),
    /// Nothing.
    Test(TestEvent),
}

/// The event that no endpoint can be subscribed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TestEvent {
    /// Somebody wants to see a delivery.
    #[serde(rename = "webhook.test")]
    Test,
}

impl DeliveryEvent {
    /// The event of a test.
    pub const TEST: Self = Self::Test(TestEvent::Test);

    /// The wire name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Job(event) => event.as_str(),
            Self::Test(TestEvent::Test) => "webhook.test",
        }
    }
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
    pub event: DeliveryEvent,
    /// Its state.
    pub state: DeliveryState,
    /// When the next attempt is due.
    pub next_at: Option<UnixMs>,
    /// The attempts, oldest first: those of this round, and the last of the rounds before it.
    pub attempts: Vec<DeliveryAttempt>,
    /// The job; absent in a test, and in records of before replays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// Stream sequence of the event; absent where `job` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// When the event happened; absent where `job` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub happened_at: Option<UnixMs>,
    /// Times that it was replayed; each replay is a round with the whole schedule.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub replays: u32,
    /// Attempts in `attempts` that are of earlier rounds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub earlier: u32,
    /// Attempts of earlier rounds that are not kept.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped: u32,
}

impl DeliveryRecord {
    /// One of which nothing is known yet, and nothing was tried.
    #[must_use]
    pub fn new(
        id: DeliveryId,
        tenant: TenantId,
        endpoint: EndpointId,
        event: DeliveryEvent,
    ) -> Self {
        Self {
            id,
            tenant,
            endpoint,
            event,
            state: DeliveryState::Retrying,
            next_at: None,
            attempts: Vec::new(),
            job: None,
            sequence: None,
            happened_at: None,
            replays: 0,
            earlier: 0,
            dropped: 0,
        }
    }
}

/// What is not counted is not written: records of before read the same.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// One page of the list of an endpoint's deliveries; bucket `deliveries`, key
/// `<tenant>.<endpoint>.<page>`, pages from 1. A page only grows, and only the last one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeliveryPage {
    /// Ids in the order of their first attempts.
    pub deliveries: Vec<DeliveryId>,
}

messages! {
    HookRequest = "hook_request";
    HookReply = "hook_reply";
    HookAsk = "hook_ask";
    HookAskReply = "hook_ask_reply";
}

impl Message for TestDelivery {
    const TYPE: &'static str = "delivery";
    const VERSION: u16 = 2;

    fn is_about(&self, subject: &Subject) -> bool {
        *subject == Subject::hook_out(&self.tenant, &self.endpoint, &self.id)
    }
}
impl Message for Delivery {
    const TYPE: &'static str = "delivery";
    const VERSION: u16 = 1;

    fn is_about(&self, subject: &Subject) -> bool {
        *subject == Subject::hook_out(&self.job.tenant, &self.endpoint, &self.id)
    }
}

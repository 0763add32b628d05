//! What intake asks about endpoints that there are, tests, and endpoints and deliveries of which
//! everything is said.

use super::{See, T0, delivery_id, endpoint_id, job_id, rest::Look, tenant};
use hotcell_schemas::{
    hook::{
        DeliveryAttempt, DeliveryEvent, DeliveryPage, DeliveryPlace, DeliveryRecord, DeliveryState,
        DisabledFor, EndpointIndex, EndpointRecord, EndpointView, FailedAttempt, HookAsk,
        HookAskReply, HookConflict, HookVerb, OldSecret, TestDelivery,
    },
    request::{WebhookChange, WebhookEvent, WebhookRotate},
    secret::WebhookSecret,
};

fn failed() -> FailedAttempt {
    FailedAttempt {
        delivery: delivery_id(),
        number: 4,
        at: T0,
        status: Some(500),
        error: "status".to_owned(),
    }
}

fn view() -> EndpointView {
    EndpointView {
        id: endpoint_id(),
        url: "https://hooks.example/in".to_owned(),
        events: vec![WebhookEvent::Completed],
        created_at: T0,
        failures: 10,
        last_failure: Some(failed()),
        disabled_at: Some(T0),
        disabled_for: Some(DisabledFor::Failures),
        old_secret_until: Some(T0.plus_ms(86_400_000)),
    }
}

fn replayed() -> DeliveryRecord {
    let attempt =
        DeliveryAttempt { at: T0, status: Some(500), elapsed_ms: 3, error: Some("status".into()) };
    DeliveryRecord {
        id: delivery_id(),
        tenant: tenant(),
        endpoint: endpoint_id(),
        event: DeliveryEvent::Job(WebhookEvent::Completed),
        state: DeliveryState::Retrying,
        next_at: Some(T0),
        attempts: vec![attempt; 2],
        job: Some(job_id()),
        sequence: Some(71),
        happened_at: Some(T0),
        replays: 2,
        earlier: 1,
        dropped: 5,
    }
}

fn change() -> WebhookChange {
    WebhookChange {
        url: Some("https://hooks.example/new".to_owned()),
        events: Some(vec![WebhookEvent::Failed]),
        enabled: Some(true),
    }
}

fn verbs() -> [(&'static str, HookVerb); 9] {
    let (endpoint, delivery) = (endpoint_id(), delivery_id());
    [
        ("list", HookVerb::List {}),
        ("get", HookVerb::Get { endpoint: endpoint.clone() }),
        ("change", HookVerb::Change { endpoint: endpoint.clone(), change: change() }),
        (
            "rotate",
            HookVerb::Rotate {
                endpoint: endpoint.clone(),
                request: "0f".repeat(16),
                old_secret_secs: 86_400,
            },
        ),
        ("remove", HookVerb::Remove { endpoint: endpoint.clone() }),
        ("test", HookVerb::Test { endpoint: endpoint.clone(), delivery: delivery.clone() }),
        (
            "deliveries",
            HookVerb::Deliveries {
                endpoint: endpoint.clone(),
                limit: 20,
                from: Some(DeliveryPlace { page: 2, left: 7 }),
                state: Some(DeliveryState::Exhausted),
            },
        ),
        ("delivery", HookVerb::Delivery { endpoint: endpoint.clone(), delivery: delivery.clone() }),
        ("replay", HookVerb::Replay { endpoint, delivery }),
    ]
}

/// Messages.
pub(crate) fn each(eye: &mut impl See) {
    for (case, verb) in verbs() {
        eye.see(case, "hooks.ask", &HookAsk { tenant: tenant(), verb });
    }
    let secret = WebhookSecret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned());
    let (deliveries, next) = (vec![replayed()], Some(DeliveryPlace { page: 2, left: 7 }));
    let (field, rule) = ("url".to_owned(), "must be https".to_owned());
    for (case, reply) in [
        ("endpoints", HookAskReply::Endpoints { endpoints: vec![view()] }),
        ("endpoint", HookAskReply::Endpoint { endpoint: view() }),
        ("rotated", HookAskReply::Rotated { endpoint: view(), secret }),
        ("queued", HookAskReply::Queued { delivery: delivery_id() }),
        ("deliveries", HookAskReply::Deliveries { deliveries, next }),
        ("missing", HookAskReply::Missing {}),
        ("refused", HookAskReply::Refused { field, rule }),
        ("conflict", HookAskReply::Conflict { why: HookConflict::Disabled }),
    ] {
        eye.see(case, "hooks.ask", &reply);
    }
    let (id, endpoint) = (delivery_id(), endpoint_id());
    let test = TestDelivery { id, tenant: tenant(), endpoint, at: T0 };
    eye.see("test", "hook.out", &test);
}

/// Records.
pub(crate) fn at_rest(eye: &mut impl Look) {
    let endpoint = EndpointRecord {
        id: endpoint_id(),
        tenant: tenant(),
        url: "https://hooks.example/in".to_owned(),
        events: Vec::new(),
        secret_sealed: "c2VhbGVk".to_owned(),
        created_at: T0,
        failures: 1,
        disabled_at: Some(T0),
        disabled_for: Some(DisabledFor::Request),
        failing: vec![failed()],
        old_secret: Some(OldSecret { sealed: "b2xk".to_owned(), until: T0.plus_ms(1) }),
        rotation: Some("0f".repeat(16)),
    };
    eye.look("endpoint.full", &endpoint);
    eye.look("endpoint.index", &EndpointIndex { ids: vec![endpoint_id()] });
    eye.look("delivery.replayed", &replayed());
    let replayed = replayed();
    let test = DeliveryRecord {
        next_at: replayed.next_at,
        attempts: replayed.attempts,
        ..DeliveryRecord::new(delivery_id(), tenant(), endpoint_id(), DeliveryEvent::TEST)
    };
    eye.look("delivery.test", &test);
    eye.look("delivery.page", &DeliveryPage { deliveries: vec![delivery_id()] });
}

/// Bodies of the HTTP API.
pub(crate) fn http(eye: &mut impl Look) {
    eye.look("webhook_change", &change());
    eye.look("webhook_rotate", &WebhookRotate { old_secret_secs: Some(0) });
}

//! Webhooks at the edge: what is asked of the webhook service, what is recorded, and what is shown.
//! The service itself has tests of its own; here a stand-in answers, and keeps what it was asked.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "support/people.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod people;
#[path = "support/world.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod world;

use hotcell_schemas::{
    EndpointId, Role, Subject, UnixMs,
    hook::{
        DeliveryEvent, DeliveryPlace, DeliveryRecord, DeliveryState, DisabledFor, EndpointView,
        HookAsk, HookAskReply, HookConflict, HookVerb,
    },
    identity::RoleName,
    request::WebhookEvent,
    secret::WebhookSecret,
};
use hotcell_stage::{Incoming, Shutdown};
use reqwest::Method;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use tokio::task::JoinSet;
use world::{World, answer, tenant};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const DELIVERY: &str = "0193a0f0c0de7000800000000000d00d";

fn endpoint() -> EndpointId {
    EndpointId::new(1, [6; 10])
}

fn view() -> EndpointView {
    EndpointView {
        id: endpoint(),
        url: "https://hooks.example/in?token=t".to_owned(),
        events: vec![WebhookEvent::Failed],
        created_at: UnixMs(0),
        failures: 10,
        last_failure: None,
        disabled_at: Some(UnixMs(1)),
        disabled_for: Some(DisabledFor::Failures),
        old_secret_until: None,
    }
}

fn record() -> DeliveryRecord {
    let (id, event) = (DELIVERY.parse().unwrap(), DeliveryEvent::Job(WebhookEvent::Failed));
    let record = DeliveryRecord::new(id, tenant("acme"), endpoint(), event);
    DeliveryRecord { state: DeliveryState::Exhausted, ..record }
}

/// Acme has one endpoint, with one delivery; another tenant has none.
fn reply(ask: &HookAsk) -> HookAskReply {
    let (queued, deliveries) = (DELIVERY.parse().unwrap(), vec![record()]);
    let is_other = |id: &EndpointId| *id != endpoint() || ask.tenant != tenant("acme");
    match &ask.verb {
        HookVerb::List {} => HookAskReply::Endpoints { endpoints: vec![view()] },
        HookVerb::Get { endpoint }
        | HookVerb::Change { endpoint, .. }
        | HookVerb::Rotate { endpoint, .. }
        | HookVerb::Test { endpoint, .. }
        | HookVerb::Deliveries { endpoint, .. }
        | HookVerb::Delivery { endpoint, .. }
        | HookVerb::Replay { endpoint, .. }
            if is_other(endpoint) =>
        {
            HookAskReply::Missing {}
        }
        HookVerb::Get { .. } | HookVerb::Change { .. } => {
            HookAskReply::Endpoint { endpoint: view() }
        }
        HookVerb::Rotate { .. } => {
            let secret = WebhookSecret::new(SECRET.to_owned());
            HookAskReply::Rotated { endpoint: view(), secret }
        }
        // As if its first answer had been lost.
        HookVerb::Remove { .. } => HookAskReply::Missing {},
        HookVerb::Test { .. } => HookAskReply::Queued { delivery: queued },
        HookVerb::Deliveries { .. } => {
            let next = Some(DeliveryPlace { page: 2, left: 7 });
            HookAskReply::Deliveries { deliveries, next }
        }
        HookVerb::Delivery { .. } => HookAskReply::Deliveries { deliveries, next: None },
        HookVerb::Replay { .. } => HookAskReply::Conflict { why: HookConflict::Disabled },
    }
}

async fn service(world: &World) -> (JoinSet<()>, Arc<Mutex<Vec<HookVerb>>>) {
    let (mut parts, asked) = (JoinSet::new(), Arc::new(Mutex::new(Vec::new())));
    let (bus, kept) = (world.bus(Role::Webhook).await, Arc::clone(&asked));
    let serving = bus.clone();
    parts.spawn(async move {
        let handle = move |incoming: Incoming| {
            let kept = Arc::clone(&kept);
            async move {
                let ask = incoming.open::<HookAsk>().unwrap().into_inner();
                let reply = reply(&ask);
                kept.lock().unwrap().push(ask.verb);
                incoming.answer(&reply).await;
            }
        };
        let subject = Subject::hooks_ask();
        serving.serve(subject.as_str(), "all", 8, Shutdown::new(), handle).await.unwrap();
    });
    bus.flush().await;
    (parts, asked)
}

async fn send(
    world: &World,
    bearer: &str,
    (method, path): (&str, &str),
    body: &str,
) -> (u16, Value) {
    let path = format!("/v1/webhooks{}", path.replace("ID", endpoint().as_str()));
    let method: Method = method.parse().unwrap();
    answer(world.send(method, &path, Some(bearer), Some(body)).await).await
}

/// IAM-10, BRK-83: each change is one row of its own kind, and what changes nothing leaves none.
#[tokio::test]
async fn every_change_of_a_webhook_is_recorded_once_and_shown_without_a_secret() {
    let world = World::start().await;
    let (_parts, asked) = service(&world).await;
    let enrolled = world.enrolled("acme", &[RoleName::WebhookAdmin]).await;
    let admin = world.stepped_up(&enrolled).await;
    let all = r#"{"url":"https://new.example/","events":[],"enabled":true}"#;
    let replay = format!("/ID/deliveries/{DELIVERY}/replay");
    for (call, body, status, rows) in [
        (("GET", ""), "", 200, 0),
        (("GET", "/ID"), "", 200, 0),
        (("PATCH", "/ID"), all, 200, 1),
        (("PATCH", "/ID"), "{}", 422, 0),
        (("PATCH", "/ID"), r#"{"secret":"x"}"#, 400, 0),
        (("POST", "/ID/rotate"), r#"{"oldSecretSecs":86401}"#, 422, 0),
        (("POST", "/ID/rotate"), "", 200, 1),
        (("POST", "/ID/rotate"), r#"{"oldSecretSecs":0}"#, 200, 1),
        (("POST", "/ID/test"), "", 202, 1),
        (("GET", "/ID/deliveries?state=exhausted&cursor=3.1"), "", 200, 0),
        (("GET", "/ID/deliveries?limit=51"), "", 400, 0),
        (("POST", replay.as_str()), "", 409, 1),
        (("DELETE", "/ID"), "", 200, 1),
        (("PATCH", "/0193a0f0c0de7000800000000000beef"), all, 404, 0),
        (("DELETE", "/no-id"), "", 404, 0),
    ] {
        let before = world.audited("acme", "change").await;
        let (found, told) = send(&world, &admin, call, body).await;
        assert_eq!(found, status, "{call:?} {told}");
        assert_eq!(world.audited("acme", "change").await, before + rows, "{call:?}");
        let text = told.to_string();
        assert_eq!(text.contains(SECRET), call.1 == "/ID/rotate" && status == 200, "{call:?}");
        assert!(!text.contains("sealed"), "{text}");
    }
    let asked = asked.lock().unwrap().clone();
    let mut rotations = Vec::new();
    let mut lists = Vec::new();
    for verb in &asked {
        if let HookVerb::Rotate { request, old_secret_secs, .. } = verb {
            rotations.push((request.len(), *old_secret_secs));
        }
        if let HookVerb::Deliveries { limit, from, state, .. } = verb {
            lists.push((*limit, *from, *state));
        }
    }
    assert_eq!(rotations, [(32, 86_400), (32, 0)], "a repeat can be told from another rotation");
    let from = Some(DeliveryPlace { page: 3, left: 1 });
    assert_eq!(lists, [(20, from, Some(DeliveryState::Exhausted))]);
    assert!(!world.log().contains(SECRET), "a secret is in the log");
}

/// What its tenant can see of an endpoint: that it is disabled, and why.
#[tokio::test]
async fn brk_51_a_tenant_sees_that_and_why_its_webhook_is_disabled() {
    let world = World::start().await;
    let (_parts, _) = service(&world).await;
    let admin = world.key("acme", &[RoleName::WebhookAdmin]).await;
    let (_, told) = send(&world, &admin, ("GET", "/ID"), "").await;
    let shown = &told["result"];
    assert_eq!((&shown["enabled"], &shown["disabledFor"]), (&json!(false), &json!("failures")));
    assert_eq!((&shown["failures"], &shown["events"]), (&json!(10), &json!(["job.failed"])));
    let (_, told) = send(&world, &admin, ("GET", "/ID/deliveries"), "").await;
    assert_eq!(told["result"]["nextCursor"], "2.7");
    assert_eq!(told["result"]["deliveries"][0]["event"], "job.failed");
    // URLs may hold a token: a viewer reads none.
    let viewer = world.key("acme", &[RoleName::Viewer]).await;
    assert_eq!(send(&world, &viewer, ("GET", ""), "").await.0, 403);
    let other = world.key("bolt", &[RoleName::WebhookAdmin]).await;
    assert_eq!(send(&world, &other, ("GET", "/ID"), "").await.0, 404);
}

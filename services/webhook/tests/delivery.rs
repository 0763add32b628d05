//! The whole service against a real broker and real receivers: planned, signed, repeated,
//! recorded, restarted; and what tenants' own programs hear.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use futures::StreamExt as _;
use hotcell_nats_config::{Login, TenantSpec, jwt, testing::NOW};
use hotcell_schemas::{
    EventKind, Job, Role, TenantId,
    hook::{DeliveryState, EndpointRecord, HookReply},
    job::StateEvent,
    limits::ENDPOINTS_MAX,
    request::WebhookEvent,
};
use hotcell_stage::{Bus, Outgoing, clock};
use hotcell_webhook::{Secret, verify};
use nkeys::KeyPair;
use serde_json::json;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use support::{
    Receiver, Seen,
    job::submitted,
    rig::{Rig, WAIT_MAX, nats, tenant, until},
};

impl Rig {
    async fn add_tenant(&self, id: &TenantId) -> async_nats::Client {
        let admin = self.server.admin().await.unwrap();
        let spec = TenantSpec::new(id.clone(), vec!["cpu".parse().unwrap()]);
        admin.add_tenant(&spec, &"app".parse().unwrap(), NOW).await.unwrap();
        let login = Login::Tenant { tenant: id.clone(), user: "app".parse().unwrap() };
        self.server.connect(&login).await.unwrap()
    }

    /// Whoever holds the operator's keys hears what is told to whomever.
    async fn spy(&self) -> async_nats::Client {
        let (installation, user) = (self.server.installation().unwrap(), KeyPair::new_user());
        let keys = installation.keys();
        let body = json!({"type": "user", "version": 2, "pub": {"allow": [">"]}, "subs": -1,
            "sub": {"allow": [">"]}, "data": -1, "payload": -1,
            "issuer_account": keys.pipeline.public_key()});
        let of = user.public_key();
        let token = jwt::encode(&keys.pipeline_grants, NOW, &of, "spy", &body).unwrap();
        let user = Arc::new(user);
        let sign = move |nonce: Vec<u8>| {
            let user = Arc::clone(&user);
            async move { user.sign(&nonce).map_err(async_nats::AuthError::new) }
        };
        let options = async_nats::ConnectOptions::with_jwt(token, sign);
        options.connect(self.server.url()).await.unwrap()
    }

    /// Submitted by intake, validated by the validator, cancelled by intake; the job at its end.
    async fn live(&self, job: Job) -> Job {
        let seq = self.intake.publish(&Outgoing::job(job.clone(), 0)).await.unwrap().seq;
        let validator = nats(&self.server, Role::Validator);
        let validator = Bus::connect(Role::Validator, &validator).await.unwrap();
        let job = job.moved(EventKind::Validated, clock::now());
        let seq = validator.publish(&Outgoing::job(job.clone(), seq)).await.unwrap().seq;
        let job = job.moved(EventKind::Cancelled, clock::now());
        self.intake.publish(&Outgoing::job(job.clone(), seq)).await.unwrap();
        job
    }

    /// Waits until every event so far was handled.
    async fn told(&self) {
        let jetstream = async_nats::jetstream::new(self.bus().await.client().clone());
        until("all was told", || async {
            let jobs = jetstream.get_stream_no_info("JOBS").await.unwrap();
            let mut open = 0;
            for durable in ["webhook", "teller"] {
                let info = jobs.consumer_info(durable).await.unwrap();
                open += info.num_pending + u64::try_from(info.num_ack_pending).unwrap();
            }
            open == 0
        })
        .await;
    }
}

/// Returns when the broker has taken what `client` sent before, and sent what it had for it: nobody
/// serves what is asked here, and the broker says so.
async fn settle(client: &async_nats::Client) {
    let error = client.request("api.get", "".into()).await.unwrap_err();
    assert_eq!(error.kind(), async_nats::client::RequestErrorKind::NoResponders);
}

/// What was heard by now, in the order of its numbers, each with the job that its subject names. What
/// was told again says so by its number.
async fn heard(
    client: &async_nats::Client,
    events: &mut async_nats::Subscriber,
) -> Vec<(String, StateEvent)> {
    settle(client).await;
    let mut all = Vec::new();
    while let Ok(Some(event)) = tokio::time::timeout(Duration::ZERO, events.next()).await {
        let of = event.subject.split('.').rev().nth(1).unwrap().to_owned();
        all.push((of, serde_json::from_slice::<StateEvent>(&event.payload).unwrap()));
    }
    all.sort_by_key(|(_, event)| event.seq);
    all.dedup();
    all
}

fn states(job: &Job) -> Vec<(String, StateEvent)> {
    job.states(0).map(|event| (job.id.to_string(), event)).collect()
}

// BRK-78, IAM-15: a program hears at the broker what the server-sent events of its job are, the end
// included, and nothing of another tenant's.
#[tokio::test(flavor = "multi_thread")]
async fn brk_78_each_state_is_told_to_its_own_tenant_with_its_number() {
    let mut rig = Rig::start(&[1]).await;
    let bolt: TenantId = "bolt".parse().unwrap();
    let (acme_app, bolt_app) = (rig.add_tenant(&tenant()).await, rig.add_tenant(&bolt).await);
    let mut acme_hears = acme_app.subscribe("events.*.state").await.unwrap();
    let mut bolt_hears = bolt_app.subscribe("events.*.state").await.unwrap();
    settle(&acme_app).await;
    settle(&bolt_app).await;
    let ours = rig.live(submitted(1)).await;
    let theirs = rig.live(Job { tenant: bolt, ..submitted(2) }).await;
    rig.told().await;
    let events = heard(&acme_app, &mut acme_hears).await;
    assert_eq!(events, states(&ours));
    let numbers: Vec<_> = events.iter().map(|(_, event)| (event.seq, event.state)).collect();
    use EventKind::{Cancelled, Submitted, Validated};
    assert_eq!(numbers, [(1, Submitted), (2, Validated), (3, Cancelled)]);
    assert_eq!(heard(&bolt_app, &mut bolt_hears).await, states(&theirs));
    rig.stop().await;
}

// Issue 4, item 1: to the account of a tenant that is not served nothing is said at all.
#[tokio::test(flavor = "multi_thread")]
async fn no_state_is_told_to_a_tenant_that_is_not_served() {
    let mut rig = Rig::start(&[1]).await;
    let bolt: TenantId = "bolt".parse().unwrap();
    rig.add_tenant(&bolt).await;
    let spy = rig.spy().await;
    let mut told = spy.subscribe("events.*.*.state").await.unwrap();
    let mut ends = spy.subscribe("events.*.*.terminal").await.unwrap();
    settle(&spy).await;
    rig.server.admin().await.unwrap().suspend_tenant(&tenant(), NOW).await.unwrap();
    rig.live(submitted(1)).await;
    let served = rig.live(Job { tenant: bolt, ..submitted(2) }).await;
    rig.told().await;
    assert_eq!(heard(&spy, &mut told).await, states(&served), "only of the one that is served");
    let end = tokio::time::timeout(Duration::ZERO, ends.next()).await.unwrap().unwrap();
    assert!(end.subject.contains(served.id.as_str()), "{}", end.subject);
    assert!(tokio::time::timeout(Duration::ZERO, ends.next()).await.is_err(), "only its end");
    rig.stop().await;
}

fn check_signed(seen: &Seen, secret: &str) {
    let secret = Secret::parse(secret).unwrap();
    let header = |name: &'static str| seen.header(name);
    verify(&secret, header, &seen.body, seen.at.secs()).unwrap();
    let oracle = standardwebhooks::Webhook::new(&secret.reveal()).unwrap();
    oracle.verify(&seen.body, &seen.headers).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn brk_52_a_restart_between_attempts_keeps_the_schedule() {
    let mut rig = Rig::start(&[1, 1, 1]).await;
    let receiver = Receiver::start(vec![500, 307]).await;
    let created = rig.create(&receiver.url("/hook")).await;
    let app = Login::Tenant { tenant: tenant(), user: "app".parse().unwrap() };
    let app = rig.server.connect(&app).await.unwrap();
    let mut events = app.subscribe("events.*.terminal").await.unwrap();
    settle(&app).await;
    rig.end_job(1).await;

    until("first attempt", || async { !receiver.seen().is_empty() }).await;
    let id = receiver.seen()[0].header("webhook-id").unwrap().to_owned();
    let bus = rig.bus().await;
    until("its record", || async { rig.delivery(&bus, &id).await.is_some() }).await;
    rig.stop().await;
    rig.run();
    until("third attempt", || async { receiver.seen().len() >= 3 }).await;

    let seen = receiver.seen();
    for (index, one) in seen.iter().enumerate() {
        check_signed(one, created.secret.expose());
        assert_eq!(one.header("webhook-id"), Some(id.as_str()));
        assert_eq!(one.header("x-hotcell-attempt"), Some((index + 1).to_string().as_str()));
        assert_eq!(one.header("x-hotcell-event"), Some("job.cancelled"));
        assert_eq!(one.body, seen[0].body);
    }
    for pair in seen.windows(2) {
        assert_ne!(pair[0].header("webhook-timestamp"), pair[1].header("webhook-timestamp"));
        assert_ne!(pair[0].header("webhook-signature"), pair[1].header("webhook-signature"));
        assert!(pair[1].at.since_ms(pair[0].at) >= 1000, "never before its time");
    }
    assert_eq!(rig.audited_end().await, (DeliveryState::Succeeded, 3, Some(200)));
    let record = rig.delivery(&bus, &id).await.unwrap();
    let statuses: Vec<_> = record.attempts.iter().map(|attempt| attempt.status).collect();
    assert_eq!(statuses, [Some(500), Some(307), Some(200)]);
    assert_eq!((record.state, record.next_at), (DeliveryState::Succeeded, None));

    let event = tokio::time::timeout(WAIT_MAX, events.next()).await.unwrap().unwrap();
    assert_eq!(event.subject.as_str(), format!("events.{}.terminal", submitted(1).id));
    assert_eq!(event.payload, seen[0].body, "the tenant's account hears the same");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn brk_52_a_spent_schedule_is_kept_and_recorded() {
    let mut rig = Rig::start(&[1]).await;
    let receiver = Receiver::start(vec![500; 9]).await;
    rig.create(&receiver.url("/")).await;
    rig.end_job(1).await;
    assert_eq!(rig.audited_end().await, (DeliveryState::Exhausted, 2, Some(500)));
    let id = receiver.seen()[0].header("webhook-id").unwrap().to_owned();
    rig.stop().await;
    let record = rig.delivery(&rig.bus().await, &id).await.unwrap();
    assert_eq!((record.state, record.attempts.len()), (DeliveryState::Exhausted, 2));
    assert_eq!(record.attempts[0].error.as_deref(), Some("status"));
    assert_eq!(receiver.seen().len(), 2);
}

// Issue 4, item 1: whoever is not served hears nothing, also of what ended before: a delivery of a
// suspended tenant waits, and ends when the tenant is removed.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_is_not_served_is_told_nothing() {
    let rig = Rig::start(&[1, 1]).await;
    let receiver = Receiver::start(vec![200]).await;
    rig.create(&receiver.url("/hook")).await;
    let admin = rig.server.admin().await.unwrap();
    admin.suspend_tenant(&tenant(), NOW).await.unwrap();
    rig.end_job(1).await;
    // Its delivery was looked at, and is still the broker's to give.
    let jetstream = async_nats::jetstream::new(rig.bus().await.client().clone());
    until("the delivery is held", || async {
        let hooks = jetstream.get_stream_no_info("HOOKS").await.unwrap();
        let consumer = hooks.consumer_info("deliverer").await;
        consumer.is_ok_and(|info| info.num_ack_pending == 1)
    })
    .await;
    admin.remove_tenant(&tenant(), NOW).await.unwrap();
    assert_eq!(rig.audited_end().await, (DeliveryState::Exhausted, 0, None));
    assert_eq!(receiver.seen().len(), 0, "a tenant that is not served was told");
}

#[tokio::test(flavor = "multi_thread")]
async fn brk_54_an_endpoint_that_hangs_holds_up_no_other() {
    let mut rig = Rig::start(&[1, 1, 1]).await;
    let hanging = Receiver::start(vec![0; 64]).await;
    let healthy = Receiver::start(Vec::new()).await;
    rig.create(&hanging.url("/")).await;
    rig.create(&healthy.url("/")).await;
    let begun = Instant::now();
    for number in 1..=12 {
        rig.end_job(number).await;
    }
    until("the healthy endpoint", || async { healthy.seen().len() >= 12 }).await;
    // The hanging one holds each attempt for 15 s, four at once: twelve are 45 s.
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    until("the lane", || async { hanging.seen().len() >= 4 }).await;
    assert_eq!(hanging.open_most(), 4, "its lane is four attempts wide");
    rig.tasks.abort_all();
}

#[tokio::test(flavor = "multi_thread")]
async fn brk_43_the_secret_is_shown_once_and_sealed_at_rest() {
    let mut rig = Rig::start(&[1]).await;
    let created = rig.create("https://example.com/hook").await;
    let secret = Secret::parse(created.secret.expose()).unwrap();
    let bus = rig.bus().await;
    let key = format!("{}.{}", tenant(), created.id);
    let stored = bus.bucket("endpoints").get::<EndpointRecord>(&key).await.unwrap().unwrap();
    assert!(
        !format!("{:?}", stored.value)
            .contains(created.secret.expose().trim_start_matches("whsec_"))
    );
    assert!(stored.value.secret_sealed.len() > secret.reveal().len());

    for (url, events, expect) in [
        ("http://example.com/", &[][..], "url"),
        ("https://169.254.169.254/", &[], "url"),
        ("https://[::ffff:127.0.0.1]/", &[], "url"),
        ("https://example.com/", &[WebhookEvent::Failed; 2], "events"),
    ] {
        match rig.ask(url, events).await {
            HookReply::Refused { field, .. } => assert_eq!(field, expect, "{url}"),
            HookReply::Created { .. } | HookReply::OverQuota { .. } => panic!("{url} was taken"),
        }
    }
    for _ in 1..ENDPOINTS_MAX {
        rig.create("https://example.com/hook").await;
    }
    // BRK-81: as many as the plan holds.
    let max = u32::try_from(ENDPOINTS_MAX).unwrap();
    let over = HookReply::OverQuota { limit: max, used: max };
    assert_eq!(rig.ask("https://example.com/", &[]).await, over);
    rig.stop().await;
}

//! Endpoints and deliveries that there are: shown, changed, rotated, removed, tested, listed, replayed,
//! and disabled when they fail, against a real broker and real receivers.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use hotcell_nats_config::{TenantSpec, testing::NOW};
use hotcell_schemas::{
    DeliveryId, EndpointId, EventKind, TenantId, UnixMs,
    hook::{
        Delivery, DeliveryEvent, DeliveryPlace, DeliveryRecord, DeliveryState, DisabledFor,
        EndpointIndex, EndpointView, HookAskReply, HookConflict, HookVerb,
    },
    records::AuditAct,
    request::{WebhookChange, WebhookCreated, WebhookEvent},
};
use hotcell_stage::{Bus, Outgoing, clock};
use hotcell_webhook::{Secret, verify};
use serde::Serialize;
use support::{
    Receiver, Seen,
    job::submitted,
    rig::{Rig, tenant, until},
};

impl Rig {
    async fn view(&self, endpoint: &EndpointId) -> EndpointView {
        let reply = self.hook(&tenant(), HookVerb::Get { endpoint: endpoint.clone() }).await;
        let HookAskReply::Endpoint { endpoint } = reply else { panic!("{reply:?}") };
        endpoint
    }

    async fn change(&self, endpoint: &EndpointId, change: WebhookChange) -> EndpointView {
        let verb = HookVerb::Change { endpoint: endpoint.clone(), change };
        let reply = self.hook(&tenant(), verb).await;
        let HookAskReply::Endpoint { endpoint } = reply else { panic!("{reply:?}") };
        endpoint
    }

    async fn enable(&self, endpoint: &EndpointId, enabled: bool) -> EndpointView {
        let change = WebhookChange { enabled: Some(enabled), ..WebhookChange::default() };
        self.change(endpoint, change).await
    }

    async fn rotate(&self, endpoint: &EndpointId, request: &str, old: u32) -> (Secret, UnixMs) {
        let verb = HookVerb::Rotate {
            endpoint: endpoint.clone(),
            request: request.to_owned(),
            old_secret_secs: old,
        };
        let reply = self.hook(&tenant(), verb).await;
        let HookAskReply::Rotated { endpoint, secret } = reply else { panic!("{reply:?}") };
        let until = endpoint.old_secret_until.unwrap_or(UnixMs(0));
        (Secret::parse(secret.expose()).unwrap(), until)
    }

    async fn listed(
        &self,
        endpoint: &EndpointId,
        limit: u32,
        from: Option<DeliveryPlace>,
        state: Option<DeliveryState>,
    ) -> (Vec<DeliveryRecord>, Option<DeliveryPlace>) {
        let verb = HookVerb::Deliveries { endpoint: endpoint.clone(), limit, from, state };
        let reply = self.hook(&tenant(), verb).await;
        let HookAskReply::Deliveries { deliveries, next } = reply else { panic!("{reply:?}") };
        (deliveries, next)
    }

    async fn replay(&self, endpoint: &EndpointId, delivery: &DeliveryId) -> HookAskReply {
        let (endpoint, delivery) = (endpoint.clone(), delivery.clone());
        self.hook(&tenant(), HookVerb::Replay { endpoint, delivery }).await
    }

    async fn test(&self, endpoint: &EndpointId) -> DeliveryId {
        let delivery = DeliveryId::new(clock::now().0, clock::random());
        let (endpoint, id) = (endpoint.clone(), delivery.clone());
        let reply = self.hook(&tenant(), HookVerb::Test { endpoint, delivery }).await;
        assert_eq!(reply, HookAskReply::Queued { delivery: id.clone() });
        id
    }

    /// A job ends, and its delivery with it.
    async fn ended(&self, number: u8) -> (DeliveryState, u32, Option<u16>) {
        self.end_job(number).await;
        self.audited_end().await
    }
}

fn conflict(why: HookConflict) -> HookAskReply {
    HookAskReply::Conflict { why }
}

fn secret_of(created: &WebhookCreated) -> Secret {
    Secret::parse(created.secret.expose()).unwrap()
}

fn verifies(seen: &Seen, secret: &Secret) -> bool {
    verify(secret, |name| seen.header(name), &seen.body, seen.at.secs()).is_ok()
}

fn ids(list: &[DeliveryRecord]) -> Vec<DeliveryId> {
    list.iter().map(|record| record.id.clone()).collect()
}

const EXHAUSTED: (DeliveryState, u32, Option<u16>) = (DeliveryState::Exhausted, 1, Some(500));

/// BRK-51, BRK-53, BRK-48: ten failures in a row disable; what is missed meanwhile is on record; once
/// enabled again it arrives, as the event was.
#[tokio::test(flavor = "multi_thread")]
async fn brk_51_ten_failures_disable_and_brk_53_a_replay_tells_what_was_missed() {
    let mut rig = Rig::start(&[]).await;
    let receiver = Receiver::start(vec![500; 10]).await;
    let created = rig.create(&receiver.url("/")).await;
    for number in 1..=9 {
        assert_eq!(rig.ended(number).await, EXHAUSTED, "{number}");
    }
    let nine = rig.view(&created.id).await;
    assert_eq!((nine.failures, nine.disabled_at), (9, None));
    rig.end_job(10).await;
    let acts = rig.acts_to_end().await;
    let disabled: Vec<_> =
        acts.iter().filter(|act| matches!(act, AuditAct::EndpointDisabled { .. })).collect();
    let (endpoint, error) = (created.id.clone(), "status".to_owned());
    let expect = AuditAct::EndpointDisabled { endpoint, failures: 10, status: Some(500), error };
    assert_eq!(disabled, [&expect], "one record, before the end of the delivery");
    let tripped = rig.view(&created.id).await;
    assert_eq!((tripped.failures, tripped.disabled_for), (10, Some(DisabledFor::Failures)));
    assert!(tripped.disabled_at.is_some());
    assert_eq!(tripped.last_failure.unwrap().status, Some(500));

    // While it is disabled nothing is sent, and what would have been is on record.
    assert_eq!(rig.ended(11).await, (DeliveryState::Exhausted, 0, None));
    assert_eq!(receiver.seen().len(), 10);
    let (newest, _) = rig.listed(&created.id, 1, None, None).await;
    let missed = newest[0].clone();
    assert_eq!((missed.job.as_ref(), missed.attempts.len()), (Some(&submitted(11).id), 0));
    assert_eq!(rig.replay(&created.id, &missed.id).await, conflict(HookConflict::Disabled));

    let enabled = rig.enable(&created.id, true).await;
    assert_eq!((enabled.failures, enabled.disabled_at, enabled.disabled_for), (0, None, None));
    assert_eq!(
        rig.replay(&created.id, &missed.id).await.clone(),
        HookAskReply::Queued { delivery: missed.id.clone() }
    );
    assert_eq!(rig.audited_end().await, (DeliveryState::Succeeded, 1, Some(200)));
    let seen = receiver.seen().pop().unwrap();
    assert_eq!(seen.header("webhook-id"), Some(missed.id.as_str()), "the same event id");
    assert!(verifies(&seen, &secret_of(&created)));
    let body: serde_json::Value = serde_json::from_slice(&seen.body).unwrap();
    assert_eq!(body["data"]["id"], submitted(11).id.as_str());
    assert_eq!(body["sequence"], missed.sequence.unwrap());

    // One that was received comes again with the same bytes, a new time and a new signature.
    until("another second", || async { clock::now().secs() > seen.at.secs() }).await;
    let again = rig.replay(&created.id, &missed.id).await;
    assert_eq!(again, HookAskReply::Queued { delivery: missed.id.clone() });
    assert_eq!(rig.audited_end().await, (DeliveryState::Succeeded, 2, Some(200)));
    let second = receiver.seen().pop().unwrap();
    assert_eq!((&second.body, second.header("webhook-id")), (&seen.body, Some(missed.id.as_str())));
    assert_ne!(second.header("webhook-timestamp"), seen.header("webhook-timestamp"));
    assert_ne!(second.header("webhook-signature"), seen.header("webhook-signature"));
    assert_eq!(rig.listed(&created.id, 1, None, None).await.0[0].replays, 2);
    rig.stop().await;
}

/// BRK-51: a success begins the count anew.
#[tokio::test(flavor = "multi_thread")]
async fn brk_51_nine_failures_and_one_success_disable_nothing() {
    let mut rig = Rig::start(&[]).await;
    let script = [[500; 9].as_slice(), &[200], &[500; 9]].concat();
    let receiver = Receiver::start(script).await;
    let created = rig.create(&receiver.url("/")).await;
    for number in 1..=19 {
        let (state, ..) = rig.ended(number).await;
        assert_eq!(state == DeliveryState::Succeeded, number == 10, "{number}");
    }
    let view = rig.view(&created.id).await;
    assert_eq!((view.failures, view.disabled_at), (9, None));
    rig.stop().await;
}

/// BRK-51: a process that dies between an attempt and its record makes it again; it counts once.
#[tokio::test(flavor = "multi_thread")]
async fn brk_51_an_attempt_that_is_made_again_is_counted_once() {
    let mut rig = Rig::start(&[]).await;
    let receiver = Receiver::start(vec![500; 9]).await;
    let created = rig.create(&receiver.url("/")).await;
    assert_eq!(rig.ended(1).await, EXHAUSTED);
    // As if the record had not been written: the message comes again, and the attempt is number 1.
    let (bus, job) = (rig.bus().await, submitted(1).id);
    let record = rig.listed(&created.id, 1, None, None).await.0.remove(0);
    let records = bus.bucket("deliveries");
    let (_, revision) = records.look::<DeliveryRecord>(record.id.as_str()).await.unwrap();
    records.remove(record.id.as_str(), revision).await.unwrap();
    let event = bus.event(&tenant(), &job, EventKind::Cancelled).await.unwrap().unwrap();
    let delivery = Box::new(Delivery {
        id: record.id.clone(),
        endpoint: created.id.clone(),
        event: WebhookEvent::Cancelled,
        sequence: event.seq,
        at: UnixMs(1),
        job: event.message.into_inner(),
    });
    bus.publish(&Outgoing::Hook { tenant: tenant(), delivery, round: 9 }).await.unwrap();
    until("it is made again", || async { rig.delivery(&bus, record.id.as_str()).await.is_some() })
        .await;
    assert_eq!(receiver.seen().len(), 2);
    assert_eq!(rig.view(&created.id).await.failures, 1);
    assert_eq!(rig.ended(2).await, EXHAUSTED);
    assert_eq!(rig.view(&created.id).await.failures, 2);
    rig.stop().await;
}

/// BRK-43: a rotation shows the new secret once, repeats the same for its own repeat, and leaves the
/// receiver its time, or none.
#[tokio::test(flavor = "multi_thread")]
async fn brk_43_both_secrets_sign_after_a_rotation_until_the_old_one_ends() {
    let mut rig = Rig::start(&[]).await;
    let receiver = Receiver::start(Vec::new()).await;
    let created = rig.create(&receiver.url("/")).await;
    let first = secret_of(&created);
    let (second, until) = rig.rotate(&created.id, &"a".repeat(32), 86_400).await;
    assert!(until.0 > clock::now().0 && second != first);
    let (repeated, same) = rig.rotate(&created.id, &"a".repeat(32), 86_400).await;
    assert_eq!((&repeated, same), (&second, until), "a lost answer costs no secret");
    rig.ended(1).await;
    let seen = receiver.seen().pop().unwrap();
    assert!(verifies(&seen, &first) && verifies(&seen, &second));

    let (third, ended) = rig.rotate(&created.id, &"b".repeat(32), 0).await;
    assert_eq!(ended, UnixMs(0), "the old one ends at once");
    rig.ended(2).await;
    let seen = receiver.seen().pop().unwrap();
    assert!(verifies(&seen, &third) && !verifies(&seen, &second) && !verifies(&seen, &first));

    let shown = format!("{:?}", rig.hook(&tenant(), HookVerb::List {}).await);
    for secret in [&first, &second, &third] {
        assert!(!shown.contains(secret.reveal().trim_start_matches("whsec_")));
    }
    rig.stop().await;
}

/// Everything that names an endpoint is the asking tenant's own or is not there.
#[tokio::test(flavor = "multi_thread")]
async fn another_tenant_s_endpoint_is_not_there() {
    let mut rig = Rig::start(&[]).await;
    let bolt: TenantId = "bolt".parse().unwrap();
    let admin = rig.server.admin().await.unwrap();
    let spec = TenantSpec::new(bolt.clone(), vec!["cpu".parse().unwrap()]);
    admin.add_tenant(&spec, &"app".parse().unwrap(), NOW).await.unwrap();
    let receiver = Receiver::start(Vec::new()).await;
    let endpoint = rig.create(&receiver.url("/")).await.id;
    rig.ended(1).await;
    let delivery = rig.listed(&endpoint, 1, None, None).await.0.remove(0).id;
    let before = rig.view(&endpoint).await;
    let change = WebhookChange { enabled: Some(false), ..WebhookChange::default() };
    let (limit, from, state) = (1, None, None);
    for verb in [
        HookVerb::Get { endpoint: endpoint.clone() },
        HookVerb::Change { endpoint: endpoint.clone(), change },
        HookVerb::Rotate { endpoint: endpoint.clone(), request: "r".into(), old_secret_secs: 0 },
        HookVerb::Test { endpoint: endpoint.clone(), delivery: delivery.clone() },
        HookVerb::Deliveries { endpoint: endpoint.clone(), limit, from, state },
        HookVerb::Replay { endpoint: endpoint.clone(), delivery: delivery.clone() },
        HookVerb::Remove { endpoint: endpoint.clone() },
    ] {
        let answer = rig.hook(&bolt, verb.clone()).await;
        assert_eq!(answer, HookAskReply::Missing {}, "{verb:?}");
    }
    let one = HookVerb::Delivery { endpoint: endpoint.clone(), delivery: delivery.clone() };
    let nothing = HookAskReply::Deliveries { deliveries: Vec::new(), next: None };
    assert_eq!(rig.hook(&bolt, one).await, nothing);
    let none = HookAskReply::Endpoints { endpoints: Vec::new() };
    assert_eq!(rig.hook(&bolt, HookVerb::List {}).await, none);
    assert_eq!((rig.view(&endpoint).await, receiver.seen().len()), (before, 1));

    // An endpoint of one's own opens no other's delivery.
    let other = rig.create(&receiver.url("/other")).await.id;
    assert_eq!(rig.replay(&other, &delivery).await, HookAskReply::Missing {});
    rig.stop().await;
}

/// BRK-52: newest first, by pages, and the same after a restart.
#[tokio::test(flavor = "multi_thread")]
async fn brk_52_the_list_of_deliveries_is_the_same_after_a_restart() {
    let mut rig = Rig::start(&[]).await;
    let receiver = Receiver::start(vec![200, 500, 200, 500, 200]).await;
    let created = rig.create(&receiver.url("/")).await;
    for number in 1..=5 {
        rig.ended(number).await;
    }
    let pages = async |rig: &Rig, state| {
        let (mut all, mut from) = (Vec::new(), None);
        loop {
            let (page, next) = rig.listed(&created.id, 2, from, state).await;
            assert!(page.len() <= 2);
            all.extend(page);
            from = next;
            if from.is_none() {
                return all;
            }
        }
    };
    let all = pages(&rig, None).await;
    let jobs: Vec<_> = all.iter().map(|record| record.job.clone().unwrap()).collect();
    assert_eq!(jobs, [5, 4, 3, 2, 1].map(|number| submitted(number).id));
    rig.stop().await;
    rig.run();
    assert_eq!(pages(&rig, None).await, all);
    let spent = pages(&rig, Some(DeliveryState::Exhausted)).await;
    assert_eq!(ids(&spent), [all[1].id.clone(), all[3].id.clone()]);
    // Places that are in no list.
    for from in [DeliveryPlace { page: 7, left: 3 }, DeliveryPlace { page: 0, left: 0 }] {
        assert_eq!(rig.listed(&created.id, 2, Some(from), None).await, (Vec::new(), None));
    }
    rig.stop().await;
}

/// A test is signed, goes the same way, is tried once, and counts for nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_test_is_one_signed_delivery_and_reaches_what_is_disabled() {
    let mut rig = Rig::start(&[1, 1]).await;
    let receiver = Receiver::start(vec![500]).await;
    let created = rig.create(&receiver.url("/")).await;
    let ended = async |id: &DeliveryId| {
        let bus = rig.bus().await;
        until("the test ends", || async {
            let record = rig.delivery(&bus, id.as_str()).await;
            record.unwrap().state != DeliveryState::Retrying
        })
        .await;
        rig.delivery(&bus, id.as_str()).await.unwrap()
    };
    let failed = ended(&rig.test(&created.id).await).await;
    assert_eq!((failed.state, failed.attempts.len()), (DeliveryState::Exhausted, 1));
    assert_eq!(rig.view(&created.id).await.failures, 0);
    rig.enable(&created.id, false).await;
    let id = rig.test(&created.id).await;
    let record = ended(&id).await;
    assert_eq!((record.state, record.event), (DeliveryState::Succeeded, DeliveryEvent::TEST));
    let seen = receiver.seen().pop().unwrap();
    assert!(verifies(&seen, &secret_of(&created)));
    assert_eq!(seen.header("x-hotcell-event"), Some("webhook.test"));
    let body: serde_json::Value = serde_json::from_slice(&seen.body).unwrap();
    assert_eq!(
        (&body["type"], &body["data"]["endpoint"]),
        (&"webhook.test".into(), &created.id.as_str().into())
    );
    assert_eq!(ids(&rig.listed(&created.id, 9, None, None).await.0), [id.clone(), failed.id]);
    assert_eq!(rig.replay(&created.id, &id).await, conflict(HookConflict::Test));
    assert_eq!(rig.view(&created.id).await.disabled_for, Some(DisabledFor::Request));
    rig.stop().await;
}

/// Tests of an endpoint are bounded: those that wait count for all tenants' deliveries.
#[tokio::test(flavor = "multi_thread")]
async fn so_many_tests_of_an_endpoint_are_under_way_and_no_more() {
    let mut rig = Rig::start(&[1]).await;
    // It takes connections and never answers; and nobody of the tenant is spoken to.
    let hangs = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", hangs.local_addr().unwrap());
    let (created, other) = (rig.create(&url).await.id, rig.create(&url).await.id);
    let admin = rig.server.admin().await.unwrap();
    admin.suspend_tenant(&tenant(), clock::now()).await.unwrap();
    let first = rig.test(&created).await;
    for _ in 1..8 {
        rig.test(&created).await;
    }
    let ask = |delivery| HookVerb::Test { endpoint: created.clone(), delivery };
    let one_more = DeliveryId::new(clock::now().0, clock::random());
    assert_eq!(rig.hook(&tenant(), ask(one_more)).await, conflict(HookConflict::Retrying));
    let repeat = rig.hook(&tenant(), ask(first.clone())).await;
    assert_eq!(repeat, HookAskReply::Queued { delivery: first }, "a lost answer is given again");
    rig.test(&other).await;
    rig.stop().await;
}

/// Another process has put its endpoint's id into the index, and is about to make the endpoint.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_another_process_is_making_keeps_its_place() {
    let mut rig = Rig::start(&[1]).await;
    let (bus, now) = (rig.bus().await, clock::now().0);
    let (theirs, dead) = (EndpointId::new(now, [1; 10]), EndpointId::new(now - 600_000, [2; 10]));
    let index = EndpointIndex { ids: vec![dead, theirs.clone()] };
    bus.bucket("endpoints").create(tenant().as_str(), &index).await.unwrap();
    let mine = rig.create("https://example.com/hook").await.id;
    let found = bus.bucket("endpoints").get::<EndpointIndex>(tenant().as_str()).await;
    assert_eq!(found.unwrap().unwrap().value.ids, [theirs, mine]);
    rig.stop().await;
}

/// What is under way is not replayed, and what is removed is told nothing and is not there.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_is_not_replayed_and_what_is_removed_is_gone() {
    let mut rig = Rig::start(&[60]).await;
    let receiver = Receiver::start(vec![500; 9]).await;
    let (kept, gone) =
        (rig.create(&receiver.url("/kept")).await.id, rig.create(&receiver.url("/gone")).await.id);
    rig.end_job(1).await;
    until("a first attempt", || async { rig.listed(&gone, 1, None, None).await.0.len() == 1 })
        .await;
    let delivery = rig.listed(&gone, 1, None, None).await.0.remove(0);
    assert_eq!(rig.replay(&gone, &delivery.id).await, conflict(HookConflict::Retrying));
    let removed = rig.hook(&tenant(), HookVerb::Remove { endpoint: gone.clone() }).await;
    assert!(matches!(removed, HookAskReply::Endpoint { .. }), "{removed:?}");
    let again = rig.hook(&tenant(), HookVerb::Remove { endpoint: gone.clone() }).await;
    assert_eq!(again, HookAskReply::Missing {});
    assert_eq!(rig.replay(&gone, &delivery.id).await, HookAskReply::Missing {});
    let HookAskReply::Endpoints { endpoints } = rig.hook(&tenant(), HookVerb::List {}).await else {
        panic!("no list");
    };
    assert_eq!(endpoints.iter().map(|it| &it.id).collect::<Vec<_>>(), [&kept]);
    // Its place is free again.
    for _ in 0..40 {
        let made = rig.create("https://example.com/hook").await.id;
        rig.hook(&tenant(), HookVerb::Remove { endpoint: made }).await;
    }
    rig.tasks.abort_all();
}

/// Records as they were before there was more than making an endpoint.
#[derive(Serialize)]
struct OldEndpoint {
    id: EndpointId,
    tenant: TenantId,
    url: String,
    events: Vec<WebhookEvent>,
    secret_sealed: String,
    created_at: UnixMs,
    failures: u32,
    disabled_at: Option<UnixMs>,
}

#[derive(Serialize)]
struct OldDelivery {
    id: DeliveryId,
    tenant: TenantId,
    endpoint: EndpointId,
    event: WebhookEvent,
    state: DeliveryState,
    next_at: Option<UnixMs>,
    attempts: Vec<u8>,
}

async fn old_records(bus: &Bus) -> (EndpointId, DeliveryId) {
    let (id, delivery) = (EndpointId::new(1, [8; 10]), DeliveryId::new(1, [9; 10]));
    let endpoint = OldEndpoint {
        id: id.clone(),
        tenant: tenant(),
        url: "https://example.com/".to_owned(),
        events: Vec::new(),
        secret_sealed: "eA==".to_owned(),
        created_at: UnixMs(1),
        failures: 0,
        disabled_at: None,
    };
    let key = format!("{}.{id}", tenant());
    bus.bucket("endpoints").create(&key, &endpoint).await.unwrap();
    let record = OldDelivery {
        id: delivery.clone(),
        tenant: tenant(),
        endpoint: id.clone(),
        event: WebhookEvent::Failed,
        state: DeliveryState::Exhausted,
        next_at: None,
        attempts: Vec::new(),
    };
    bus.bucket("deliveries").create(delivery.as_str(), &record).await.unwrap();
    (id, delivery)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_made_before_is_listed_and_changed_like_the_rest() {
    let mut rig = Rig::start(&[]).await;
    let (old, delivery) = old_records(&rig.bus().await).await;
    let listed = async |rig: &Rig| {
        let reply = rig.hook(&tenant(), HookVerb::List {}).await;
        let HookAskReply::Endpoints { endpoints } = reply else { panic!("{reply:?}") };
        endpoints.into_iter().map(|endpoint| endpoint.id).collect::<Vec<_>>()
    };
    assert_eq!(listed(&rig).await, std::slice::from_ref(&old));
    let new = rig.create("https://example.com/new").await.id;
    assert_eq!(listed(&rig).await, [old.clone(), new]);
    assert_eq!(rig.replay(&old, &delivery).await, conflict(HookConflict::Forgotten));
    assert_eq!(rig.enable(&old, false).await.disabled_for, Some(DisabledFor::Request));
    rig.stop().await;
}

//! IAM-06, IAM-21 at the signer: what waited for a principal that is blocked is given to nobody, also
//! when whoever stole the edge's login and the validator's publishes it; and it holds up nobody else.

use super::Taker;
use crate::{
    job::{made, report, submitted},
    rig::Rig,
    worker::Worker,
};
use hotcell_policy::block::{HEARD_MS, LIFE_MS};
use hotcell_schemas::{
    BlockId, EventKind, Job, KeyId, RejectCode, Role, UnixMs,
    block::{BlockList, BlockRecord, Risk, operators_key},
    identity::{Authority, RoleName},
    job::Actor,
    records::KeyRecord,
    work::{DoneReply, UrlsReply},
};
use hotcell_stage::clock;
use std::time::Duration;

fn ana() -> Actor {
    Actor::User { issuer: "https://id.example".to_owned(), subject: "ana".to_owned() }
}

fn block(principal: Actor, until: Option<UnixMs>) -> BlockList {
    let block = BlockRecord {
        id: BlockId::new(1, [7; 10]),
        tenant: "acme".parse().unwrap(),
        principal,
        risk: Risk::STOP,
        reason: "CANARY".to_owned(),
        by: None,
        by_operator: false,
        at: UnixMs(1),
        until,
    };
    BlockList { blocks: vec![block] }
}

/// Past the promised life of a list in a signer's memory: that it is in force then is what is tested.
async fn known() {
    tokio::time::sleep(Duration::from_millis(LIFE_MS + 100)).await;
}

impl Rig {
    /// A job of `actor` that is ready for a worker, whoever let it pass.
    async fn ready_of(&self, actor: &Actor) -> Job {
        let mut job = submitted("acme", "cpu");
        job.actor = actor.clone();
        self.as_signed(&job, job.clone()).await
    }

    async fn stopped(&self, role: Role, list: &BlockList) {
        let tenant = "acme".parse().unwrap();
        let (bucket, key) = match role {
            Role::Intake => ("blocks", "acme".to_owned()),
            _ => ("platform", operators_key(&tenant)),
        };
        let bucket = self.service(role).await.bucket(bucket);
        let (_, revision) = bucket.look::<BlockList>(&key).await.unwrap();
        bucket.update(&key, list, revision).await.unwrap();
        known().await;
    }

    async fn ends_blocked(&self, taker: &mut Taker, actor: &Actor) {
        let job = self.ready_of(actor).await;
        let ended = self.ended(&job).await;
        let failure = ended.failure.unwrap();
        assert_eq!(failure.code, RejectCode::IdentityBlocked, "{actor:?}: {failure:?}");
        let id = BlockId::new(1, [7; 10]);
        assert_eq!(failure.message, format!("whoever asked is blocked: {id}"), "no reason");
        assert!(ended.attempts.is_empty() && taker.orders.try_recv().is_err(), "it was given out");
    }

    async fn goes_on(&self, (worker, taker): (&Worker, &mut Taker), actor: &Actor) {
        let job = self.ready_of(actor).await;
        served((worker, taker), &job, &format!("{actor:?}")).await;
    }
}

/// That the job is given out, and done: a lease that nobody renews would bring it back to the same
/// worker, while a slow machine is at one that is to be given to nobody.
async fn served((worker, taker): (&Worker, &mut Taker), job: &Job, what: &str) {
    let order = taker.order().await;
    assert_eq!(order.job, job.id, "{what}");
    assert_eq!(worker.done(&order, report("a")).await, DoneReply::Accepted, "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn iam_21_what_waits_for_a_blocked_principal_is_given_to_nobody() {
    let rig = Rig::start().await;
    let worker = rig.worker("w1", "cpu").await;
    let mut taker = Taker::start(&worker);
    let keys = rig.intake.bucket("keys");
    let roles = || [RoleName::Submitter].into();
    let key = |n: u8, created_by, rotated_from| {
        let id = KeyId::new(1, [n; 10]);
        let record = KeyRecord::new(id, "acme".parse().unwrap(), "key", UnixMs(0));
        KeyRecord { roles: roles(), created_by, rotated_from, ..record }
    };
    let hers = key(1, Some(ana()), None);
    let rotated = key(2, None, Some(hers.id.clone()));
    let other = key(3, None, None);
    for record in [&hers, &rotated, &other] {
        keys.create(record.id.as_str(), record).await.unwrap();
    }
    let of = |record: &KeyRecord| Actor::ApiKey { id: record.id.clone() };
    let reached = [ana(), of(&hers), of(&rotated)];
    let bob = Actor::User { issuer: "https://id.example".to_owned(), subject: "bob".to_owned() };
    // By a tenant's administrator, and by the operator, whose bucket no service writes.
    for role in [Role::Intake, Role::Provisioner] {
        // Nothing forbids it: both stolen logins bring the work to a worker.
        for actor in &reached {
            rig.goes_on((&worker, &mut taker), actor).await;
        }
        rig.stopped(role, &block(ana(), None)).await;
        for actor in &reached {
            rig.ends_blocked(&mut taker, actor).await;
        }
        for actor in [&bob, &of(&other)] {
            rig.goes_on((&worker, &mut taker), actor).await;
        }
        rig.stopped(role, &BlockList::default()).await;
    }
    // A login is its key, whatever it calls itself; a block that has ended stops nobody.
    let login = |name: &str| Actor::NatsLogin { user: "U".to_owned(), name: name.to_owned() };
    rig.stopped(Role::Intake, &block(login("app"), None)).await;
    rig.ends_blocked(&mut taker, &login("another")).await;
    rig.stopped(Role::Intake, &block(ana(), Some(clock::now()))).await;
    for actor in [&ana(), &login("app")] {
        rig.goes_on((&worker, &mut taker), actor).await;
    }
}

fn risk(level: u8, at: UnixMs) -> BlockList {
    let mut list = block(ana(), None);
    list.blocks[0].risk = Risk::try_from(level).unwrap();
    list.blocks[0].at = at;
    list
}

/// What waits of who is at risk was either asked for before, or is held to the second factor.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn iam_21_what_is_published_for_who_is_at_risk_is_given_to_nobody_without_a_second_factor() {
    let rig = Rig::start().await;
    let worker = rig.worker("w1", "cpu").await;
    let mut taker = Taker::start(&worker);
    let key = KeyRecord {
        roles: [RoleName::Submitter].into(),
        created_by: Some(ana()),
        ..KeyRecord::new(KeyId::new(1, [1; 10]), "acme".parse().unwrap(), "key", UnixMs(0))
    };
    rig.intake.bucket("keys").create(key.id.as_str(), &key).await.unwrap();
    let reached = [ana(), Actor::ApiKey { id: key.id }];
    let bob = Actor::User { issuer: "https://id.example".to_owned(), subject: "bob".to_owned() };
    for role in [Role::Intake, Role::Provisioner] {
        // Nothing forbids it: both stolen logins bring the work to a worker.
        for actor in &reached {
            rig.goes_on((&worker, &mut taker), actor).await;
        }
        rig.stopped(role, &risk(2, UnixMs(1))).await;
        for actor in &reached {
            let job = rig.ready_of(actor).await;
            taker.refused(&rig, &job, "by policy step-up-risk").await;
        }
        rig.goes_on((&worker, &mut taker), &bob).await;
        let mut strong = submitted("acme", "cpu");
        let shown = Authority { mfa: true, auth_time: Some(clock::now()), ..strong.authority };
        (strong.actor, strong.authority) = (ana(), shown);
        let strong = rig.as_signed(&strong, strong.clone()).await;
        served((&worker, &mut taker), &strong, "with a second factor").await;
        rig.stopped(role, &risk(1, UnixMs(1))).await;
        rig.goes_on((&worker, &mut taker), &ana()).await;
        // Raised after the job was submitted, and before, by as much as it takes to hear of it.
        let mut early = submitted("acme", "cpu");
        early.actor = ana();
        let since = early.stamps[0].at;
        rig.stopped(role, &risk(3, since.plus_ms(1))).await;
        let early = rig.as_signed(&early, early.clone()).await;
        served((&worker, &mut taker), &early, "it was let in before").await;
        rig.stopped(role, &risk(3, UnixMs(since.0 - HEARD_MS))).await;
        let late = rig.ready_of(&ana()).await;
        taker.refused(&rig, &late, "by policy step-up-risk").await;
        rig.stopped(role, &BlockList::default()).await;
    }
}

/// What a worker has already is done; what is tried again is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn iam_21_what_runs_when_its_principal_is_blocked_may_end() {
    let rig = Rig::start().await;
    let worker = rig.worker("w1", "cpu").await;
    let mut taker = Taker::start(&worker);
    let job = rig.ready_of(&ana()).await;
    let order = taker.order().await;
    rig.stopped(Role::Intake, &block(ana(), None)).await;
    let urls = worker.urls(&order.lease, vec![made()], None).await;
    assert!(matches!(urls, UrlsReply::Urls { .. }), "{urls:?}");
    assert_eq!(worker.done(&order, report("a")).await, DoneReply::Accepted);
    assert_eq!(rig.state(&job).await.state, EventKind::Encoded);
}

/// A list that is no list permits nothing and ends nothing: the job waits for one that is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn iam_21_a_list_that_cannot_be_read_keeps_a_job_waiting() {
    let rig = Rig::start().await;
    let mut taker = Taker::start(&rig.worker("w1", "cpu").await);
    let bucket = rig.intake.bucket("blocks");
    let revision = bucket.update("acme", &"no list", 0).await.unwrap();
    known().await;
    let job = rig.ready_of(&ana()).await;
    // Offered again, and given to nobody.
    crate::rig::eventually(|| async { (rig.deliveries("acme", "cpu").await >= 2).then_some(()) })
        .await;
    assert!(taker.orders.try_recv().is_err(), "an order was made");
    assert_eq!(rig.state(&job).await.state, EventKind::Validated);
    bucket.update("acme", &BlockList::default(), revision).await.unwrap();
    assert_eq!(taker.order().await.job, job.id);
}

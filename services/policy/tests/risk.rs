//! Risks that somebody raised: whose they are, which is in force, and what is asked for then.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use hotcell_nats_config::{
    InitOptions, Login, Replicas,
    testing::{NOW, TestServer},
};
use hotcell_policy::{
    Blocks,
    block::{HEARD_MS, LIFE_MS, LINEAGE_MAX},
};
use hotcell_schemas::{
    BlockId, KeyId, Role, UnixMs,
    block::{BlockList, BlockRecord, Risk, operators_key},
    identity::{Action, RoleName},
    job::Actor,
    records::KeyRecord,
};
use hotcell_stage::{Bus, clock, kv::Bucket};
use support::{ask, tenant, told, user};

/// IAM-21: from 2 on everything asks for more but the way to an approval; 1 is for tenants' policies.
#[test]
fn iam_21_a_risk_of_two_asks_for_a_second_factor_and_leaves_the_way_to_an_approval() {
    for (risk, asks_more) in [(0, false), (1, false), (2, true), (3, true)] {
        for action in Action::ALL.iter().copied() {
            let plain = ask(&RoleName::ALL, action).with(|ask| ask.facts.approved = true);
            let before = told(&plain.decide()).0.to_owned();
            let weak = ask(&RoleName::ALL, action).with(|ask| ask.facts.risk = risk);
            let (verdict, policies) = weak.decide_as_told();
            let stepped = policies.contains(&"step-up-risk".to_owned());
            let expect = asks_more && action != Action::RequestApproval;
            assert_eq!(stepped, expect, "{risk} {action}: {policies:?}");
            assert!(!stepped || verdict == "step-up", "{risk} {action}");
            // With a second factor of now, or an approval, it is what it is without a risk.
            let approved = plain.with(|ask| ask.facts.risk = risk);
            assert_eq!(told(&approved.decide()).0, before, "{risk} {action}");
            assert_eq!(told(&weak.fresh(300).decide()).0, "allow", "{risk} {action}");
        }
        // Who may not at all is not sent through a second factor for nothing.
        let nobody = ask(&[], Action::ReadJob).with(|ask| ask.facts.risk = risk);
        assert_eq!(told(&nobody.decide()), ("deny", vec![]), "{risk}");
    }
}

impl support::Ask {
    fn decide_as_told(&self) -> (String, Vec<String>) {
        let decision = self.decide();
        (told(&decision).0.to_owned(), decision.policies.clone())
    }
}

fn ana() -> Actor {
    user("ana")
}

fn key(n: u8) -> Actor {
    Actor::ApiKey { id: KeyId::new(1, [n; 10]) }
}

fn risk(level: u8, principal: Actor, at: UnixMs) -> BlockRecord {
    BlockRecord {
        id: BlockId::new(1, [7; 10]),
        tenant: tenant("acme"),
        principal,
        risk: Risk::try_from(level).unwrap(),
        reason: "why".to_owned(),
        by: None,
        by_operator: false,
        at,
        until: None,
    }
}

/// The bucket of the tenant's records, that of the operator's, and that of keys.
struct Rig {
    _server: TestServer,
    intake: Bus,
    own: Bucket,
    operators: Bucket,
    keys: Bucket,
}

impl Rig {
    async fn start() -> Self {
        let options = InitOptions { now: NOW, ..InitOptions::default() };
        let server = TestServer::start(&options).await.unwrap();
        server.admin().await.unwrap().provision(Replicas::One, NOW).await.unwrap();
        let bus = async |role| {
            let nats = server.config(&Login::Service(role)).unwrap();
            Bus::connect(role, &nats).await.unwrap()
        };
        let intake = bus(Role::Intake).await;
        let operators = bus(Role::Provisioner).await.bucket("platform");
        let (own, keys) = (intake.bucket("blocks"), intake.bucket("keys"));
        Self { _server: server, intake, own, operators, keys }
    }

    async fn say(&self, own: Vec<BlockRecord>, operators: Vec<BlockRecord>) {
        let operators_key = operators_key(&tenant("acme"));
        for (bucket, key, blocks) in
            [(&self.own, "acme", own), (&self.operators, operators_key.as_str(), operators)]
        {
            let (_, revision) = bucket.look::<BlockList>(key).await.unwrap();
            bucket.update(key, &BlockList { blocks }, revision).await.unwrap();
        }
    }

    /// The risk of `actor` as somebody sees it who has not looked before.
    async fn risk(&self, actor: &Actor, submitted_at: Option<UnixMs>) -> u8 {
        let (blocks, acme) = (Blocks::new(&self.intake), tenant("acme"));
        blocks.risk((&acme, actor), &self.keys, submitted_at).await.unwrap()
    }

    async fn key(&self, id: &KeyId, by: Option<Actor>, from: Option<KeyId>) {
        let record = KeyRecord::new(id.clone(), tenant("acme"), "text", UnixMs(0));
        let record = KeyRecord { created_by: by, rotated_from: from, ..record };
        self.keys.create(id.as_str(), &record).await.unwrap();
    }
}

/// IAM-21: the highest of all that stand, of the principal and of whoever its key descends from.
#[tokio::test(flavor = "multi_thread")]
async fn iam_21_the_highest_risk_that_stands_is_in_force_for_the_principal_and_its_keys() {
    let rig = Rig::start().await;
    let id = |n: u8| KeyId::new(1, [n; 10]);
    rig.key(&id(1), Some(ana()), None).await;
    rig.key(&id(2), None, Some(id(1))).await;
    rig.key(&id(3), Some(user("bob")), None).await;
    let all = async || {
        let mut found = Vec::new();
        for actor in [ana(), key(1), key(2), key(3), user("bob")] {
            found.push(rig.risk(&actor, None).await);
        }
        found
    };
    let (old, now) = (UnixMs(1), clock::now());
    assert_eq!(all().await, [0, 0, 0, 0, 0], "nobody has said anything");
    rig.say(vec![risk(2, ana(), old), risk(1, ana(), old)], vec![]).await;
    assert_eq!(all().await, [2, 2, 2, 0, 0]);
    // A key's own beside that of its maker, the operator's beside the tenant's.
    rig.say(vec![risk(1, ana(), old), risk(2, key(1), old)], vec![risk(3, key(2), old)]).await;
    assert_eq!(all().await, [1, 2, 3, 0, 0]);
    // What has ended is over, a stop is no risk, and a stop hides none.
    let ended = BlockRecord { until: Some(now), ..risk(3, ana(), old) };
    rig.say(vec![ended, risk(4, ana(), old), risk(1, ana(), old)], vec![]).await;
    assert_eq!(all().await, [1, 1, 1, 0, 0]);
}

/// IAM-06, IAM-21: of a job it is the risk of its submission, by what every replica had heard then.
#[tokio::test(flavor = "multi_thread")]
async fn iam_21_a_risk_that_is_raised_after_the_submission_is_none_of_the_job_s() {
    const { assert!(LIFE_MS < HEARD_MS, "a replica has heard before it is held to it") };
    let rig = Rig::start().await;
    let raised = UnixMs(1_000_000);
    rig.say(vec![risk(2, ana(), raised)], vec![]).await;
    for (submitted, expect) in [(0, 0), (1, 0), (999, 0), (1000, 2), (60_000, 2)] {
        let at = raised.plus_ms(submitted);
        assert_eq!(rig.risk(&ana(), Some(at)).await, expect, "{submitted} ms after");
    }
    assert_eq!(rig.risk(&ana(), Some(UnixMs(raised.0 - 1))).await, 0, "before");
    assert_eq!(rig.risk(&ana(), None).await, 2, "now");
}

/// IAM-21: who cannot be told from whose risk was raised has the highest; where none was, none.
#[tokio::test(flavor = "multi_thread")]
async fn iam_21_a_key_whose_makers_cannot_be_followed_has_the_highest_risk_where_any_stands() {
    let rig = Rig::start().await;
    let id = |n: usize| KeyId::new(n as u64, [9; 10]);
    for n in 0..=LINEAGE_MAX {
        rig.key(&id(n), None, Some(id(n + 1))).await;
    }
    let long = Actor::ApiKey { id: id(0) };
    assert_eq!(rig.risk(&long, None).await, 0);
    rig.say(vec![risk(1, user("bob"), UnixMs(1))], vec![]).await;
    assert_eq!(rig.risk(&long, None).await, 3);
    assert_eq!(rig.risk(&Actor::ApiKey { id: id(2) }, None).await, 0, "followed to the end");
    rig.say(vec![risk(4, user("bob"), UnixMs(1))], vec![]).await;
    assert_eq!(rig.risk(&long, None).await, 0, "a stop is refused elsewhere");
    // A list that is none is no risk of 0.
    let (_, revision) = rig.own.look::<BlockList>("acme").await.unwrap();
    rig.own.update("acme", &"no list", revision).await.unwrap();
    let blocks = Blocks::new(&rig.intake);
    blocks.risk((&tenant("acme"), &ana()), &rig.keys, None).await.unwrap_err();
}

//! The store over a real broker: versions, two writers, no restart, and what happens when it cannot
//! be read.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use hotcell_nats_config::{
    InitOptions, Login, Replicas,
    testing::{NOW, TestServer},
};
use hotcell_policy::{Decision, PolicyError, PolicyStore, Put, PutError, put::VERSIONS_MAX};
use hotcell_schemas::{
    Digest, Role, TenantId,
    identity::{Action::*, RoleName::*},
    policy::PolicyRecord,
};
use hotcell_stage::{Bus, NatsConfig, kv::KvError};
use std::time::{Duration, Instant};
use support::{Ask, ask, tenant, told};

struct Rig {
    server: TestServer,
    intake: PolicyStore,
    signer: PolicyStore,
    operator: PolicyStore,
    bus: Bus,
    signer_bus: Bus,
}

impl Rig {
    async fn start() -> Self {
        let options = InitOptions { now: NOW, ..InitOptions::default() };
        let server = TestServer::start(&options).await.unwrap();
        server.admin().await.unwrap().provision(Replicas::One, NOW).await.unwrap();
        let bus = async |role| Bus::connect(role, &nats(&server, role)).await.unwrap();
        let (intake, signer) = (bus(Role::Intake).await, bus(Role::Signer).await);
        Self {
            intake: PolicyStore::new(&intake),
            signer: PolicyStore::new(&signer),
            operator: PolicyStore::new(&bus(Role::Provisioner).await),
            bus: intake,
            signer_bus: signer,
            server,
        }
    }
}

fn nats(server: &TestServer, role: Role) -> NatsConfig {
    server.config(&Login::Service(role)).unwrap()
}

fn no(id: &str, action: &str) -> String {
    format!(
        "@id(\"{id}\") @allows(\"nothing\")
        forbid (principal, action == Hotcell::Action::\"{action}\", resource);"
    )
}

fn put<'a>(tenant: Option<&'a TenantId>, text: &'a str) -> Put<'a> {
    Put { tenant, text, by: None, at: NOW, over: None }
}

/// Decides until it says so, within the life of a cache and the slack of a busy machine.
async fn until(store: &PolicyStore, asked: &Ask, verdict: &str, by: &[&str]) -> Decision {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let decision = store.decide(&asked.question()).await.unwrap();
        if told(&decision) == (verdict, by.to_vec()) {
            return decision;
        }
        assert!(Instant::now() < deadline, "{decision:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn iam_17_a_stored_policy_is_in_force_everywhere_without_a_restart() {
    let rig = Rig::start().await;
    let (acme, read) = (tenant("acme"), ask(&[Viewer], ReadJob));
    let before = until(&rig.signer, &read, "allow", &["viewer"]).await;
    let text = no("closed", "ReadJob");
    let stored = rig.intake.put(put(Some(&acme), &text)).await.unwrap();
    assert_eq!((stored.version, stored.text.as_str()), (1, text.as_str()));
    // At once where it was stored, soon elsewhere; in no other tenant, and not for the operator's.
    let after = rig.intake.decide(&read.question()).await.unwrap();
    assert_eq!(told(&after), ("deny", vec!["acme/closed"]));
    assert_ne!(after.digest, before.digest);
    let seen = until(&rig.signer, &read, "deny", &["acme/closed"]).await;
    assert_eq!(seen.digest, after.digest, "one set has one digest at every node");
    let other = read.clone().of("umbrella").with(|ask| ask.tenant = tenant("umbrella"));
    until(&rig.intake, &other, "allow", &["viewer"]).await;
    let audit = no("secret", "ReadAudit");
    rig.intake.put(put(Some(&acme), &audit)).await.unwrap();
    let mut operator = ask(&[Operator], ReadAudit);
    until(&rig.intake, &operator, "deny", &["acme/secret"]).await;
    operator.tenant = tenant("platform");
    until(&rig.intake, &operator, "allow", &["operator"]).await;
    // STEP-16: the operator's changes what is sensitive, for all.
    let sensitive = "@id(\"step-up-read\") @step_up(\"mfa\") @acr_values(\"gold\") @max_age(\"60\")
        @about(\"reading jobs\") forbid (principal, action == Hotcell::Action::\"ReadJob\", resource)
        unless { context.mfa && context.auth_age_s <= 60 };";
    rig.operator.put(put(None, sensitive)).await.unwrap();
    until(&rig.signer, &other, "step-up", &["step-up-read"]).await;
    until(&rig.intake, &read, "step-up", &["step-up-read"]).await;
    rig.operator.put(put(None, "")).await.unwrap();
    let last = until(&rig.signer, &other, "allow", &["viewer"]).await;
    assert_eq!(last.digest, before.digest);
}

/// Who takes over an administrator can use a tenant's versions up, and does not lock out the operator.
#[tokio::test]
async fn step_16_the_operator_has_the_last_word_when_a_tenant_s_versions_are_used_up() {
    let rig = Rig::start().await;
    let acme = tenant("acme");
    let hostile = no("all", "ReadJob");
    let last = PolicyRecord {
        version: VERSIONS_MAX,
        text: hostile.clone(),
        digest: Digest::of(hostile.as_bytes()),
        by: None,
        at: NOW,
    };
    rig.bus.bucket("policies").create(acme.as_str(), &last).await.unwrap();
    let theirs = Put { by: Some(ask(&[TenantAdmin], ReadJob).actor), ..put(Some(&acme), "") };
    assert!(matches!(rig.intake.put(theirs).await, Err(PutError::Full)));
    let ours = rig.operator.put(put(Some(&acme), "")).await.unwrap();
    assert_eq!(ours.version, VERSIONS_MAX + 1);
    until(&rig.intake, &ask(&[Viewer], ReadJob), "allow", &["viewer"]).await;
}

#[tokio::test]
async fn every_version_is_kept_and_of_two_writers_one_is_told() {
    let rig = Rig::start().await;
    let acme = tenant("acme");
    let texts = [no("one", "ReadJob"), no("two", "ReadJob"), String::new()];
    for (index, text) in texts.iter().enumerate() {
        let before = u32::try_from(index).unwrap();
        let put = Put { over: Some(before), ..put(Some(&acme), text) };
        assert_eq!(rig.intake.put(put.clone()).await.unwrap().version, before + 1);
        let late = rig.intake.put(put).await.unwrap_err();
        assert!(matches!(late, PutError::Conflict(version) if version == before + 1));
    }
    let history = rig.intake.history(Some(&acme)).await.unwrap();
    let kept: Vec<_> = history.iter().map(|record| (record.version, &record.text)).collect();
    assert_eq!(kept, [(3, &texts[2]), (2, &texts[1]), (1, &texts[0])]);
    assert!(rig.intake.history(Some(&tenant("acm"))).await.unwrap().is_empty());
    // Both look, both write: one is told, and no version is lost.
    let text = no("race", "ReadJob");
    let one = rig.intake.put(put(Some(&acme), &text));
    let other = rig.operator.put(put(Some(&acme), &text));
    let (one, other) = tokio::join!(one, other);
    let won = [&one, &other].into_iter().filter(|result| result.is_ok()).count();
    assert!(won >= 1, "{one:?} {other:?}");
    let versions = rig.operator.history(Some(&acme)).await.unwrap().len();
    assert_eq!(versions, 3 + won);
    // An invalid text changes nothing.
    let error = rig.intake.put(put(Some(&acme), "permit (principal);")).await.unwrap_err();
    assert!(matches!(error, PutError::Invalid(_)), "{error}");
    assert_eq!(rig.operator.history(Some(&acme)).await.unwrap().len(), versions);
}

/// Thousands of versions are kept, and a reader who asks for them does not have them all read.
#[tokio::test]
async fn of_many_versions_the_last_are_listed_and_each_can_be_had() {
    let rig = Rig::start().await;
    let acme = tenant("acme");
    let bucket = rig.bus.bucket("policies");
    let of = |version: u32| {
        let text = no(&format!("v{version}"), "ReadJob");
        let digest = Digest::of(text.as_bytes());
        PolicyRecord { version, text, digest, by: None, at: NOW }
    };
    for version in 1..=250 {
        bucket.create(&format!("acme.{version}"), &of(version)).await.unwrap();
    }
    bucket.create("acme", &of(251)).await.unwrap();
    let listed = rig.intake.history(Some(&acme)).await.unwrap();
    let expect: Vec<u32> = (152..=251).rev().collect();
    assert_eq!(listed.iter().map(|record| record.version).collect::<Vec<_>>(), expect);
    for version in [1, 100, 251] {
        assert_eq!(rig.intake.version(Some(&acme), version).await.unwrap(), Some(of(version)));
    }
    for version in [0, 252] {
        assert_eq!(rig.intake.version(Some(&acme), version).await.unwrap(), None);
    }
}

#[tokio::test]
async fn no_service_writes_the_operators_policies_and_no_node_a_tenants() {
    let rig = Rig::start().await;
    let (acme, text) = (tenant("acme"), no("x", "ReadJob"));
    // The attack works for the login that may.
    rig.operator.put(put(None, &text)).await.unwrap();
    rig.intake.put(put(Some(&acme), &text)).await.unwrap();
    let error = rig.intake.put(put(None, "")).await.unwrap_err();
    assert!(matches!(error, PutError::Records(KvError::Unwritten(_))), "{error}");
    let error = rig.signer.put(put(Some(&acme), "")).await.unwrap_err();
    assert!(matches!(error, PutError::Records(KvError::Unwritten(_))), "{error}");
    assert_eq!(rig.operator.current(None).await.unwrap().unwrap().version, 1);
    assert_eq!(rig.operator.current(Some(&acme)).await.unwrap().unwrap().version, 1);
}

#[tokio::test]
async fn what_cannot_be_read_or_compiled_decides_nothing() {
    let mut rig = Rig::start().await;
    let (acme, read) = (tenant("acme"), ask(&[Viewer], ReadJob));
    // Not by this code: by a hand in the broker's files, or a version with another schema.
    let bucket = rig.bus.bucket("policies");
    let mut record = PolicyRecord {
        version: 1,
        text: "permit (principal, action, resource);".to_owned(),
        digest: Digest::of(b"other"),
        by: None,
        at: NOW,
    };
    bucket.create("acme", &record).await.unwrap();
    let refused = rig.intake.decide(&read.question()).await.unwrap_err();
    assert!(matches!(&refused, PolicyError::Set(tenant) if *tenant == acme), "{refused}");
    record.digest = Digest::of(record.text.as_bytes());
    let (_, revision) = bucket.look::<PolicyRecord>("acme").await.unwrap();
    bucket.update("acme", &record, revision).await.unwrap();
    let refused = rig.intake.decide(&read.question()).await.unwrap_err();
    assert!(matches!(refused, PolicyError::Set(_)), "a policy without an id: {refused}");
    let (_, revision) = bucket.look::<PolicyRecord>("acme").await.unwrap();
    bucket.update("acme", &"not a record", revision).await.unwrap();
    let refused = rig.intake.decide(&read.question()).await.unwrap_err();
    assert!(matches!(refused, PolicyError::Records(KvError::Malformed(_))), "{refused}");
    // A broker that is gone: what was read a moment ago is not good for ever.
    let other = read.clone().of("umbrella").with(|ask| ask.tenant = tenant("umbrella"));
    until(&rig.signer, &other, "allow", &["viewer"]).await;
    rig.server.kill().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while let Ok(decision) = rig.signer.decide(&other.question()).await {
        assert!(Instant::now() < deadline, "{decision:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(rig.signer_bus);
}

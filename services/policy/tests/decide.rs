//! Decisions by what is compiled in, and by tenants' own policies beside it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use hotcell_policy::{Engine, StepUp, Verdict};
use hotcell_schemas::identity::{
    Action::{self, *},
    RoleName::{self, *},
};
use std::collections::BTreeSet;
use support::{ask, told};

#[test]
fn every_action_is_in_the_schema() {
    let named: BTreeSet<_> = Action::ALL.iter().map(|action| action.as_str().to_owned()).collect();
    assert_eq!(hotcell_policy::engine::schema_actions(), named);
}

#[test]
fn iam_05_a_role_does_what_it_is_for_and_nothing_else() {
    assert_eq!(told(&ask(&[Viewer], ReadJob).decide()), ("allow", vec!["viewer"]));
    assert_eq!(told(&ask(&[Viewer], SubmitTranscode).decide()), ("deny", vec![]));
    assert_eq!(told(&ask(&[], ReadJob).decide()), ("deny", vec![]));
    assert_eq!(told(&ask(&[Submitter], SubmitTranscode).decide()), ("allow", vec!["submitter"]));
    let publish = ask(&[Submitter], PublishOutput);
    assert_eq!(told(&publish.decide()), ("allow", vec!["submitter-store"]));
    let elsewhere = publish
        .with(|ask| ask.facts.destination = "https://s3.example.com/media".to_owned())
        .fresh(1);
    let decision = elsewhere.decide();
    assert_eq!(told(&decision), ("deny", vec![]));
    let permits = "PublishOutput is permitted to the role publisher, the role submitter (outputs \
                   that go to the store), the role tenant-admin";
    assert_eq!(decision.advice, [permits]);
}

#[test]
fn step_06_step_07_a_sensitive_operation_needs_a_fresh_second_factor() {
    let plain = ask(&[TenantAdmin], ManageKeys);
    let decision = plain.decide();
    let step = StepUp { acr_values: vec!["urn:hotcell:acr:mfa".to_owned()], max_age_secs: 300 };
    assert_eq!(decision.verdict, Verdict::StepUp(step));
    assert_eq!(decision.policies, ["step-up-keys"]);
    assert_eq!(told(&plain.clone().fresh(300).decide()), ("allow", vec!["tenant-admin"]));
    let stale = plain.clone().fresh(301).decide();
    assert_eq!(told(&stale), ("step-up", vec!["step-up-keys"]), "STEP-07 a stale auth_time");
    let approved = plain.with(|ask| ask.facts.approved = true).decide();
    assert_eq!(told(&approved), ("allow", vec!["tenant-admin"]));
}

#[test]
fn step_06_without_the_right_there_is_no_challenge_and_no_sign_of_one() {
    for role in RoleName::ALL.into_iter().filter(|role| *role != TenantAdmin) {
        let decision = ask(&[role], ManageKeys).decide();
        assert_eq!(told(&decision), ("deny", vec![]), "{role}");
        assert!(decision.advice.iter().all(|advice| !advice.contains("second factor")));
    }
}

#[test]
fn another_tenants_resources_are_refused_to_every_role() {
    for role in RoleName::ALL {
        for action in Action::ALL {
            let decision = ask(&[role], *action).of("umbrella").fresh(1).decide();
            let reaches = [BlockIdentity, UnblockIdentity, ReadAudit, ReadPolicy, ReadUsage];
            let expect = if role == Operator && reaches.contains(action) {
                ("allow", vec!["operator"])
            } else if *action == UnblockIdentity && role != TenantAdmin {
                ("deny", vec!["admins-unblock", "same-tenant"])
            } else {
                ("deny", vec!["same-tenant"])
            };
            assert_eq!(told(&decision), expect, "{role} {action}");
        }
    }
}

#[test]
fn the_digest_is_of_the_set() {
    let (one, other) = (Engine::compile(None, None).unwrap(), Engine::defaults());
    assert_eq!(one.digest(), other.digest());
    let acme = support::tenant("acme");
    let text = r#"@id("x") @allows("nothing") forbid (principal, action, resource);"#;
    let own = Engine::compile(None, Some((&acme, text))).unwrap();
    assert_ne!(own.digest(), one.digest());
    assert_eq!(ask(&[Viewer], ReadJob).by(&own).unwrap().digest, own.digest());
}

//! Ways around policies, each shown to work on Cedar alone where it does, and refused here.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use cedar_policy::{
    Authorizer, Context, Entities, Entity, EntityUid, PolicySet, Request, RestrictedExpression,
};
use hotcell_policy::{
    Engine, PolicyError, Verdict,
    engine::{PLATFORM_TEXT, ROLES_TEXT},
};
use hotcell_schemas::{
    KeyId, UnixMs,
    identity::{
        ACR_MFA,
        Action::*,
        RoleName::{self, *},
    },
    job::Actor,
};
use std::collections::{HashMap, HashSet};
use support::{NOW, ask, output, tenant, told};

fn with(text: &str) -> Engine {
    Engine::compile(None, Some((&tenant("acme"), text))).unwrap()
}

fn uid(text: &str) -> EntityUid {
    format!("Hotcell::{text}").parse().unwrap()
}

/// What Cedar alone says to Ann of `umbrella`, a tenant-admin, who submits for `acme`.
fn cedar_alone(text: &str, entities: Vec<Entity>) -> (cedar_policy::Decision, usize) {
    let source = RestrictedExpression::new_record([
        ("protected".to_owned(), RestrictedExpression::new_bool(false)),
        ("bytes".to_owned(), RestrictedExpression::new_long(4096)),
    ]);
    let context = Context::from_pairs([("source".to_owned(), source.unwrap())]).unwrap();
    let (ann, submit) = (uid("User::\"ann\""), uid("Action::\"SubmitTranscode\""));
    let request = Request::new(ann, submit, uid("Tenant::\"acme\""), context, None).unwrap();
    let set: PolicySet = text.parse().unwrap();
    let entities = Entities::from_entities(entities, None).unwrap();
    let response = Authorizer::new().is_authorized(&request, &set, &entities);
    (response.decision(), response.diagnostics().errors().count())
}

fn ann(tenant: &str, attributes: bool) -> Entity {
    let roles = HashSet::from([uid("Role::\"tenant-admin\"")]);
    let own = RestrictedExpression::new_entity_uid(uid(&format!("Tenant::\"{tenant}\"")));
    let attributes =
        if attributes { HashMap::from([("tenant".to_owned(), own)]) } else { HashMap::new() };
    Entity::new(uid("User::\"ann\""), attributes, roles).unwrap()
}

#[test]
fn a_forbid_that_cannot_be_evaluated_is_a_denial_and_not_left_out() {
    use cedar_policy::Decision::{Allow, Deny};
    // Cedar alone: the guard works until what it reads is missing; then it is left out.
    let both = format!("{ROLES_TEXT}{PLATFORM_TEXT}");
    assert_eq!(cedar_alone(&both, vec![ann("umbrella", true)]), (Deny, 0));
    assert_eq!(cedar_alone(&both, vec![ann("umbrella", false)]), (Allow, 1));
    let overflow = "@id(\"large\") @allows(\"small sources\")
        forbid (principal, action == Hotcell::Action::\"SubmitTranscode\", resource)
        when { context.source.bytes * 9223372036854775807 > 100 };";
    let all = format!("{both}{overflow}");
    assert_eq!(cedar_alone(&all, vec![ann("acme", true)]), (Allow, 1));
    // Here: no decision.
    let submit = ask(&[TenantAdmin], SubmitTranscode).with(|ask| ask.facts.source_bytes = 4096);
    let error = submit.by(&with(overflow)).unwrap_err();
    let own = with(overflow);
    let PolicyError::Evaluation(denial) = &error else { panic!("{error}") };
    assert_eq!((told(denial), denial.digest), (("deny", vec!["acme/large"]), own.digest()));
    let advice = "acme/large: cannot be evaluated on this request; allowed is small sources";
    assert_eq!(denial.advice, [advice]);
    assert_eq!(error.to_string(), "policy acme/large cannot be evaluated");
    assert!(submit.clone().with(|ask| ask.facts.source_bytes = 0).by(&with(overflow)).is_ok());
    // Also where it would have been refused anyway, and where it has nothing to do with the action.
    assert!(submit.of("umbrella").by(&with(overflow)).is_err());
}

#[test]
fn a_tenants_permit_defeats_no_forbid_of_the_platform() {
    let all = with("@id(\"all\") permit (principal, action, resource);");
    let viewer = |action| ask(&[Viewer], action);
    // It works inside the tenant: this viewer may submit now, and the digest says that it is so.
    assert_eq!(told(&viewer(SubmitTranscode).by(&all).unwrap()), ("allow", vec!["acme/all"]));
    let check = |ask: &support::Ask, expect: (&str, Vec<&str>)| {
        assert_eq!(told(&ask.by(&all).unwrap()), expect, "{:?}", ask.action);
    };
    check(&viewer(ReadJob).of("umbrella"), ("deny", vec!["same-tenant"]));
    check(&viewer(UnblockIdentity).fresh(1), ("deny", vec!["admins-unblock"]));
    check(&viewer(ManagePolicy), ("step-up", vec!["step-up-policies"]));
    let raw = viewer(SubmitTranscode).with(|ask| ask.facts.outputs[0].raw_arguments = true);
    check(&raw, ("step-up", vec!["step-up-raw-arguments"]));
    let mut key = viewer(ManageKeys).fresh(1);
    key.facts.granted_roles = vec![Viewer, Operator];
    check(&key, ("deny", vec!["operators-are-made-by-the-operator"]));
    key.facts.granted_roles = vec![Viewer];
    check(&key, ("allow", vec!["acme/all"]));
}

#[test]
fn a_tenant_cannot_take_a_platform_policys_place() {
    let own = with("@id(\"same-tenant\") permit (principal, action, resource);");
    let decision = ask(&[Viewer], ReadJob).of("umbrella").by(&own).unwrap();
    assert_eq!(told(&decision), ("deny", vec!["same-tenant"]));
    let mine = ask(&[], ReadJob).by(&own).unwrap();
    assert_eq!(told(&mine), ("allow", vec!["acme/same-tenant"]));
}

#[test]
fn step_07_an_authentication_time_that_is_stale_or_unknown_or_ahead_is_none() {
    let at = |auth_time: Option<UnixMs>| {
        let keys = ask(&[TenantAdmin], ManageKeys).with(|ask| {
            ask.authority.mfa = true;
            ask.authority.auth_time = auth_time;
        });
        told(&keys.decide()).0.to_owned()
    };
    assert_eq!(at(Some(NOW)), "allow");
    assert_eq!(at(Some(UnixMs(NOW.0 - 300_999))), "allow", "300 whole seconds");
    assert_eq!(at(Some(UnixMs(NOW.0 - 301_000))), "step-up");
    assert_eq!(at(Some(UnixMs(0))), "step-up");
    assert_eq!(at(None), "step-up");
    assert_eq!(at(Some(NOW.plus_ms(30_000))), "allow", "the skew of clocks");
    assert_eq!(at(Some(NOW.plus_ms(30_001))), "step-up");
    assert_eq!(at(Some(UnixMs(u64::MAX))), "step-up");
    let pwd = ask(&[TenantAdmin], ManageKeys).fresh(1).with(|ask| ask.authority.mfa = false);
    assert_eq!(told(&pwd.decide()).0, "step-up", "a fresh password is no second factor");
}

/// A policy, and what it is about.
type Case = (&'static str, fn(&mut support::Ask));

#[test]
fn step_15_a_stolen_key_or_plain_token_does_nothing_sensitive() {
    let sensitive = [
        ManageKeys,
        ManagePolicy,
        ManageWebhooks,
        ManagePresets,
        ExportAudit,
        UnblockIdentity,
        ApproveRequest,
    ];
    for action in sensitive {
        let all = ask(&RoleName::ALL, action);
        assert_eq!(told(&all.decide()).0, "step-up", "{action}");
        assert_eq!(told(&all.clone().fresh(1).decide()).0, "allow", "{action}");
        let approved = all.with(|ask| ask.facts.approved = true).decide();
        let expect = if action == ApproveRequest { "step-up" } else { "allow" };
        assert_eq!(told(&approved).0, expect, "{action}: no approval approves");
    }
    let facts: [Case; 4] = [
        ("step-up-protected-source", |ask| ask.facts.protected_source = true),
        ("step-up-raw-arguments", |ask| ask.facts.outputs[0].raw_arguments = true),
        ("step-up-external", |ask| {
            ask.facts.destination = "https://s3.example.com/media".to_owned()
        }),
        ("step-up-risk", |ask| ask.facts.risk = 2),
    ];
    for (policy, change) in facts {
        let submit = ask(&[TenantAdmin], SubmitTranscode).with(change);
        assert_eq!(told(&submit.decide()), ("step-up", vec![policy]), "STEP-02, STEP-05");
        assert_eq!(told(&submit.fresh(1).decide()).0, "allow");
    }
    let two = ask(&[TenantAdmin], SubmitTranscode).with(facts[0].1).with(facts[1].1).decide();
    assert_eq!(told(&two), ("step-up", vec!["step-up-protected-source", "step-up-raw-arguments"]));
}

#[test]
fn what_is_not_said_counts_as_the_worst() {
    // A destination that nobody named is not the store; a job without outputs is not decided.
    let nowhere = ask(&[TenantAdmin], PublishOutput).with(|ask| ask.facts.destination.clear());
    assert_eq!(told(&nowhere.decide()), ("step-up", vec!["step-up-external"]));
    let none = ask(&[TenantAdmin], SubmitTranscode).with(|ask| ask.facts.outputs.clear());
    assert!(matches!(none.by(&Engine::defaults()), Err(PolicyError::NoOutputs)));
}

#[test]
fn every_rendition_is_decided_and_the_worst_counts() {
    let low = with(
        "@id(\"small\") @allows(\"up to 720 lines\")
        forbid (principal, action in [Hotcell::Action::\"SubmitTranscode\"], resource)
        when { context.output.height > 720 };",
    );
    let mut job = ask(&[Submitter], SubmitTranscode);
    let tall = hotcell_policy::OutputFacts { height: 1080, ..output() };
    let raw = hotcell_policy::OutputFacts { raw_arguments: true, ..output() };
    assert_eq!(told(&job.by(&low).unwrap()), ("allow", vec!["submitter"]));
    job.facts.outputs = vec![output(), raw.clone()];
    assert_eq!(told(&job.by(&low).unwrap()), ("step-up", vec!["step-up-raw-arguments"]));
    job.facts.outputs = vec![raw, output(), tall];
    let decision = job.by(&low).unwrap();
    assert_eq!(told(&decision), ("deny", vec!["acme/small"]));
    assert_eq!(decision.advice, ["acme/small: allowed is up to 720 lines"]);
}

#[test]
fn a_challenge_that_would_lead_nowhere_is_a_denial() {
    let head = "@id(\"own\") @step_up(\"mfa\") @acr_values(\"gold\") @about(\"reading\")";
    let read = "forbid (principal, action == Hotcell::Action::\"ReadJob\", resource)";
    let check = |max_age: u32, unless: &str, expect: &str| {
        let own = with(&format!("{head} @max_age(\"{max_age}\") {read} {unless};"));
        let decision = ask(&[Viewer], ReadJob).by(&own).unwrap();
        assert_eq!(told(&decision), (expect, vec!["acme/own"]), "{unless}");
    };
    check(60, "unless { context.mfa && context.auth_age_s <= 60 }", "step-up");
    check(3600, "unless { context.mfa && context.auth_age_s <= 60 }", "deny");
    check(60, "", "deny");
    check(60, "unless { context.approved }", "deny");
    // STEP-06: whoever may not read is not told of it.
    let own = with(&format!("{head} @max_age(\"60\") {read} unless {{ context.mfa }};"));
    assert_eq!(told(&ask(&[], ReadJob).by(&own).unwrap()), ("deny", vec![]));
}

/// STEP-08, RFC 9470: a class of authentication is asked for where a policy looks at it, and only one
/// that opens; a key's own second factor has one class.
#[test]
fn step_08_a_policy_of_a_class_of_authentication_is_challenged_for_that_class() {
    let head = "@about(\"reading\") @step_up(\"mfa\") @max_age(\"60\")";
    let read = "forbid (principal, action == Hotcell::Action::\"ReadJob\", resource)";
    let one = |id: &str, values: &str, wanted: &str| {
        format!(
            "@id(\"{id}\") @acr_values(\"{values}\") {head} {read}
             unless {{ context.acr == \"{wanted}\" && context.auth_age_s <= 60 }};"
        )
    };
    let reader = ask(&[Viewer], ReadJob);
    let asked = |ask: &support::Ask, text: &str| match ask.by(&with(text)).unwrap().verdict {
        Verdict::Allow => vec!["allow".to_owned()],
        Verdict::StepUp(step) => step.acr_values,
        Verdict::Deny => vec!["deny".to_owned()],
    };
    let gold = one("own", "silver gold", "gold");
    assert_eq!(asked(&reader, &gold), ["gold"]);
    let shown =
        |acr: &str| reader.clone().fresh(1).with(|ask| ask.authority.acr = Some(acr.into()));
    assert_eq!(asked(&shown("gold"), &gold), ["allow"]);
    assert_eq!(asked(&shown("silver"), &gold), ["gold"]);
    // Who shows the class that another policy wants, and showed it long ago, shows it again.
    let class =
        format!("@id(\"class\") @about(\"x\") {read} unless {{ context.acr == \"gold\" }};");
    let factor = format!(
        "{class} @id(\"own\") @acr_values(\"silver\") {head} {read}
         unless {{ context.mfa && context.auth_age_s <= 60 }};"
    );
    let stale =
        |acr: &str| reader.clone().fresh(3600).with(|ask| ask.authority.acr = Some(acr.into()));
    assert_eq!(asked(&shown("gold"), &factor), ["allow"]);
    assert_eq!(asked(&stale("gold"), &factor), ["gold"]);
    assert_eq!(asked(&stale("silver"), &factor), ["deny"]);
    let weak = stale("gold").with(|ask| ask.authority.mfa = false);
    assert_eq!(asked(&weak, &factor), ["deny"], "a class that is no second factor is none later");
    // What no class that is asked for opens, no challenge is for.
    assert_eq!(asked(&reader, &one("own", "silver", "gold")), ["deny"]);
    let both = [gold.clone(), one("other", "platinum", "platinum")].concat();
    assert_eq!(asked(&reader, &both), ["deny"]);
    // Where nobody looks at the class, each will do.
    let any = format!(
        "@id(\"own\") @acr_values(\"silver gold\") {head} {read} unless {{ context.mfa }};"
    );
    assert_eq!(asked(&reader, &any), ["silver", "gold"]);
    let key = reader.with(|ask| ask.actor = Actor::ApiKey { id: KeyId::new(1, [7; 10]) });
    assert_eq!(asked(&key, &gold), ["deny"]);
    assert_eq!(asked(&key, &any), ["silver", "gold"]);
    assert_eq!(asked(&key, &one("own", ACR_MFA, ACR_MFA)), [ACR_MFA]);
}

#[test]
fn iam_17_the_operators_text_lies_over_what_is_compiled_in() {
    let over = |text: &str| Engine::compile(Some(text), None);
    let keys = ask(&[TenantAdmin], ManageKeys);
    let head = "forbid (principal, action == Hotcell::Action::\"ManageKeys\", resource)";
    // STEP-16: the sensitive list is data.
    let off = over(&format!("@id(\"step-up-keys\") @about(\"x\") @off(\"a test\") {head};"));
    assert_eq!(told(&keys.by(&off.unwrap()).unwrap()), ("allow", vec!["tenant-admin"]));
    let never = over(&format!("@id(\"step-up-keys\") @allows(\"nothing\") {head};")).unwrap();
    assert_eq!(told(&keys.clone().fresh(1).by(&never).unwrap()), ("deny", vec!["step-up-keys"]));
    let added = over(&format!("@id(\"frozen\") @allows(\"nothing\") {head};")).unwrap();
    assert_eq!(told(&keys.clone().fresh(1).by(&added).unwrap()), ("deny", vec!["frozen"]));
    for guard in ["same-tenant", "admins-unblock", "operators-are-made-by-the-operator"] {
        let text = format!("\n@id(\"{guard}\") @about(\"x\") @off(\"x\") {head};");
        let faults = over(&text).unwrap_err();
        assert_eq!(faults.0.len(), 1);
        assert_eq!((faults.0[0].line, faults.0[0].policy.as_deref()), (2, Some(guard)));
    }
}

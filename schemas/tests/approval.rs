//! Approvals: one digest for one request, and who may use what for what.
#![allow(clippy::unwrap_used, reason = "tests")]

use hotcell_schemas::{
    Digest, EventKind, Job, UnixMs,
    approval::{
        ApprovalRecord, Standing, Unusable, Voice, canonical_text, check_job, job_digest,
        request_digest,
    },
    identity::{Action, Authority},
    job::{Actor, Stamp},
    request::TranscodeRequest,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const NOW: UnixMs = UnixMs(1_000_000);

fn key(n: u8) -> Actor {
    Actor::ApiKey { id: format!("{n:032x}").parse().unwrap() }
}

fn request(preset: &str) -> TranscodeRequest {
    let text = format!(
        r#"{{"inputs":[{{"url":"upload:a.mp4"}}],"outputFormat":"mp4","preset":{preset}}}"#
    );
    serde_json::from_str(&text).unwrap()
}

fn good() -> TranscodeRequest {
    request(r#"{"quality":"high","resolution":"720p"}"#)
}

fn voice(actor: Actor, groups: &[&str], approves: bool) -> Voice {
    let groups = groups.iter().map(ToString::to_string).collect();
    Voice { actor, groups, approves, reason: None, at: NOW }
}

fn record(voices: Vec<Voice>) -> ApprovalRecord {
    ApprovalRecord {
        id: "00".repeat(16).parse().unwrap(),
        tenant: "acme".parse().unwrap(),
        requester: key(1),
        interested: vec![key(1)],
        action: Action::SubmitTranscode,
        request: job_digest(&good()),
        shown: String::new(),
        approvers_min: 1,
        groups: BTreeSet::new(),
        created_at: UnixMs(0),
        expires_at: UnixMs(2_000_000),
        voices,
        used_for: None,
    }
}

fn job() -> Job {
    Job {
        id: "11".repeat(16).parse().unwrap(),
        tenant: "acme".parse().unwrap(),
        state: EventKind::Submitted,
        actor: key(1),
        authority: Authority {
            approval: Some("00".repeat(16).parse().unwrap()),
            ..Authority::default()
        },
        decisions: Vec::new(),
        workflow: None,
        request: good(),
        pool: "cpu".parse().unwrap(),
        inputs: Vec::new(),
        plan: None,
        attempts: Vec::new(),
        outputs: Vec::new(),
        failure: None,
        stamps: vec![Stamp { event: EventKind::Submitted, at: NOW }],
    }
}

#[test]
fn new_08_one_request_has_one_digest_and_another_has_another() {
    let a: Value = serde_json::from_str(r#"{"b":[1,{"y":null,"x":"é\n"}],"a":true}"#).unwrap();
    let b: Value =
        serde_json::from_str("{ \"a\" : true,\n \"b\":[1, {\"x\":\"\\u00e9\\n\", \"y\":null}] }")
            .unwrap();
    assert_eq!(canonical_text(&a), r#"{"a":true,"b":[1,{"x":"é\n","y":null}]}"#);
    let digest = |value: &Value| request_digest(Action::ManageKeys, value);
    assert_eq!(digest(&a), digest(&b));
    assert_ne!(digest(&a), request_digest(Action::ManagePolicy, &a));
    for other in [json!({}), json!(null), json!([]), json!(""), json!("{}"), json!({ "": null })] {
        assert_ne!(digest(&a), digest(&other));
        for another in [json!(0), json!(false), json!([[]]), json!({ "a": {} })] {
            assert_ne!(digest(&other), digest(&another));
        }
    }
    // The bytes that are hashed, for whoever computes it elsewhere.
    let bytes = b"hotcell-approval-v1\0ManageKeys\0{\"a\":1}\0";
    assert_eq!(digest(&json!({ "a": 1 })), Digest::of(bytes));
}

#[test]
fn new_08_every_field_of_a_job_is_in_its_digest() {
    let digest = job_digest(&good());
    assert_eq!(digest, job_digest(&request(r#"{"resolution":"720p","quality":"high"}"#)));
    let changed = [
        TranscodeRequest { workflow: Some("x".to_owned()), ..good() },
        TranscodeRequest { priority: hotcell_schemas::tenancy::Priority::High, ..good() },
        TranscodeRequest { inputs: Vec::new(), ..good() },
        TranscodeRequest { output_format: None, ..good() },
        request(r#"{"quality":"low","resolution":"720p"}"#),
        request(r#"{"quality":"high","resolution":"1080p"}"#),
    ];
    for other in changed {
        assert_ne!(digest, job_digest(&other), "{other:?}");
    }
}

fn permits(record: &ApprovalRecord, purpose: &str, now: UnixMs) -> Result<(), Unusable> {
    let (tenant, digest) = ("acme".parse().unwrap(), job_digest(&good()));
    record.permits(&tenant, &key(1), Action::SubmitTranscode, digest, purpose, now)
}

#[test]
fn brk_84_it_takes_enough_voices_of_each_group_and_none_against() {
    let check = |record: &ApprovalRecord, expect: Standing| {
        assert_eq!(record.standing(NOW), expect);
        assert_eq!(permits(record, "x", NOW).is_ok(), expect == Standing::Given);
    };
    check(&record(Vec::new()), Standing::Waiting);
    let one = record(vec![voice(key(2), &[], true)]);
    check(&one, Standing::Given);
    let two = ApprovalRecord { approvers_min: 2, ..one.clone() };
    check(&two, Standing::Waiting);
    let both = vec![voice(key(2), &["auditor"], true), voice(key(3), &[], true)];
    check(&ApprovalRecord { voices: both.clone(), ..two.clone() }, Standing::Given);
    let groups = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    let grouped = ApprovalRecord { voices: both, groups: groups(&["auditor"]), ..two.clone() };
    check(&grouped, Standing::Given);
    let missing = ApprovalRecord { groups: groups(&["auditor", "operator"]), ..grouped };
    check(&missing, Standing::Waiting);
    let against = vec![voice(key(2), &[], true), voice(key(3), &[], false)];
    check(&ApprovalRecord { voices: against, ..one.clone() }, Standing::Rejected);
    check(&ApprovalRecord { expires_at: NOW, ..one.clone() }, Standing::Expired);
    check(&ApprovalRecord { approvers_min: 0, ..record(Vec::new()) }, Standing::Waiting);
}

#[test]
fn new_08_it_is_used_once_by_whoever_asked_for_what_was_asked() {
    let given = record(vec![voice(key(2), &[], true)]);
    let check = |record: &ApprovalRecord, purpose: &str, expect: Result<(), Unusable>| {
        assert_eq!(permits(record, purpose, NOW), expect);
    };
    check(&given, "job", Ok(()));
    let used = ApprovalRecord { used_for: Some("job".to_owned()), ..given.clone() };
    check(&used, "job", Ok(()));
    check(&used, "other", Err(Unusable::Used));
    check(&used, "", Err(Unusable::Used));
    let ended = ApprovalRecord { expires_at: NOW, ..used };
    check(&ended, "job", Err(Unusable::Expired));
    check(&ApprovalRecord { requester: key(9), ..given.clone() }, "job", Err(Unusable::NotYours));
    let action = ApprovalRecord { action: Action::ManageKeys, ..given.clone() };
    check(&action, "job", Err(Unusable::Action));
    let other = ApprovalRecord { tenant: "bolt".parse().unwrap(), ..given.clone() };
    check(&other, "job", Err(Unusable::Missing));
    let changed = ApprovalRecord { request: Digest::of(b"other"), ..given };
    check(&changed, "job", Err(Unusable::Changed));
}

#[test]
fn new_08_a_node_holds_a_job_to_the_approval_that_it_names() {
    let (job, id) = (job(), "11".repeat(16));
    let used = ApprovalRecord { used_for: Some(id), ..record(vec![voice(key(2), &[], true)]) };
    assert_eq!(check_job(Some(&used), &job), Ok(true));
    let none = Job { authority: Authority::default(), ..job.clone() };
    assert_eq!(check_job(Some(&used), &none), Ok(false));
    assert_eq!(check_job(None, &job), Err(Unusable::Missing));
    let other = ApprovalRecord { id: "22".repeat(16).parse().unwrap(), ..used.clone() };
    assert_eq!(check_job(Some(&other), &job), Err(Unusable::Missing));
    let changed = TranscodeRequest { workflow: Some("x".to_owned()), ..good() };
    let changed = Job { request: changed, ..job.clone() };
    assert_eq!(check_job(Some(&used), &changed), Err(Unusable::Changed));
    let thief = Job { actor: key(7), ..job.clone() };
    assert_eq!(check_job(Some(&used), &thief), Err(Unusable::NotYours));
    let again = Job { id: "33".repeat(16).parse().unwrap(), ..job.clone() };
    assert_eq!(check_job(Some(&used), &again), Err(Unusable::Used));
    let unused = ApprovalRecord { used_for: None, ..used.clone() };
    assert_eq!(check_job(Some(&unused), &job), Err(Unusable::Waiting));
    let late = vec![Stamp { event: EventKind::Submitted, at: UnixMs(2_000_000) }];
    assert_eq!(
        check_job(Some(&used), &Job { stamps: late, ..job.clone() }),
        Err(Unusable::Expired)
    );
    assert_eq!(check_job(Some(&used), &Job { stamps: Vec::new(), ..job }), Err(Unusable::Expired));
    let silent = ApprovalRecord { voices: Vec::new(), ..used };
    assert_eq!(check_job(Some(&silent), &self::job()), Err(Unusable::Used));
}

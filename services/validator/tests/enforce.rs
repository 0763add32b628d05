//! IAM-06, ZT-04 at the validator: what a stolen login of intake can publish, and what it gets.
//! Every job here is signed by intake's own key, as the broker and the envelope want it: what
//! refuses it is the record, the broker's clock, or policy on the compiled job.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "support/clip.rs"]
mod clip;
#[path = "support/rig.rs"]
mod rig;

use hotcell_policy::{Engine, store::LIFE_MS};
use hotcell_schemas::reject::RAW_FORBIDDEN;
use hotcell_schemas::{
    ApprovalId, BlobKey, Digest, EventKind, Job, KeyId, RejectCode, Role, UnixMs,
    approval::{ApprovalRecord, Voice, job_digest},
    identity::{Action, Authority, Outcome, RoleName},
    job::Actor,
    plan::Container,
    policy::PolicyRecord,
    records::{KeyRecord, TenantRecord},
    tenancy::TenantState,
};
use hotcell_stage::{Bus, Outgoing, Shutdown, clock};
use hotcell_validator::run;
use rig::{broker, config, job, nats, settled, signer, store, tenant};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::{task::JoinSet, time::Instant};

const HOUR_MS: u64 = 3_600_000;

fn key_record(id: &str, roles: &[RoleName]) -> KeyRecord {
    let id = id.parse::<KeyId>().unwrap();
    let new = KeyRecord::new(id, "acme".parse().unwrap(), "key", UnixMs(0));
    KeyRecord { roles: roles.iter().copied().collect(), ..new }
}

fn by_key(job: &mut Job, id: &str, roles: &[RoleName]) {
    job.actor = Actor::ApiKey { id: id.parse().unwrap() };
    job.authority = Authority { roles: roles.iter().copied().collect(), ..Authority::default() };
}

fn args(job: &mut Job, words: &[&str]) {
    let body = serde_json::json!({"inputs": [{"url": "upload:clip"}],
        "outputs": [{"format": "mp4", "ffmpegArgs": words}]});
    job.request = serde_json::from_value(body).unwrap();
}

/// What is published, and the words of its refusal; none for a job that must go on.
type Case = (&'static str, Job, Option<&'static str>);

/// Jobs of one clip, each with another lie, and honest ones beside them.
fn cases(clip: &[u8], closed: &[u8]) -> Vec<Case> {
    use RoleName::{Submitter, TenantAdmin, Viewer};
    let mut cases: Vec<Case> = Vec::new();
    let mut add = |name, bytes: &[u8], refusal, change: &dyn Fn(&mut Job)| {
        let number = u8::try_from(cases.len() + 1).unwrap();
        let mut job = job(number, bytes, "video/mp4");
        change(&mut job);
        cases.push((name, job, refusal));
    };
    let (submitter, viewer) =
        ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb");
    add("honest login", clip, None, &|_| {});
    add("honest key", clip, None, &|job| by_key(job, submitter, &[Submitter]));
    add("no roles", clip, Some("no policy permits"), &|job| job.authority.roles.clear());
    let lacks = Some("roles that its key does not have");
    add("more roles than the key", clip, lacks, &|job| {
        by_key(job, viewer, &[Viewer, TenantAdmin]);
    });
    add("fewer than policy asks for", clip, Some("no policy permits"), &|job| {
        by_key(job, viewer, &[Viewer]);
    });
    let none = Some("not one of its tenant");
    add("a key of nobody", clip, none, &|job| {
        by_key(job, "cccccccccccccccccccccccccccccccc", &[Submitter])
    });
    add("another tenant's key", clip, none, &|job| {
        by_key(job, "dddddddddddddddddddddddddddddddd", &[Submitter])
    });
    let revoked = Some("revoked before");
    add("a revoked key", clip, revoked, &|job| {
        by_key(job, "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee", &[Submitter])
    });
    add("a revoked key, dated back", clip, Some("time of submission"), &|job| {
        by_key(job, "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee", &[Submitter]);
        job.stamps[0].at.0 -= 2 * HOUR_MS;
    });
    add("an ended key", clip, Some("had ended"), &|job| {
        by_key(job, "ffffffffffffffffffffffffffffffff", &[Submitter])
    });
    add("a factor that the key has not", clip, Some("second factor that its key"), &|job| {
        by_key(job, submitter, &[Submitter]);
        job.authority.mfa = true;
    });
    add("a key outside its network", clip, Some("from where the job came"), &|job| {
        by_key(job, "99999999999999999999999999999999", &[Submitter]);
        job.authority.network = Some("192.0.2.7".parse().unwrap());
    });
    add("a key inside its network", clip, None, &|job| {
        by_key(job, "99999999999999999999999999999999", &[Submitter]);
        job.authority.network = Some("10.1.2.3".parse().unwrap());
    });
    add("protected media", closed, Some("step-up-protected-source"), &|_| {});
    add("protected media, factor of long ago", closed, Some("step-up-protected-source"), &|job| {
        (job.authority.mfa, job.authority.auth_time) =
            (true, Some(UnixMs(job.stamps[0].at.0 - HOUR_MS)));
    });
    add("protected media, factor of now", closed, None, &|job| {
        (job.authority.mfa, job.authority.auth_time) = (true, Some(job.stamps[0].at));
    });
    add("an approval of nobody", closed, Some("no such approval"), &|job| {
        job.authority.approval = Some(ApprovalId::new(9, [9; 10]));
    });
    add("an approval of this job", closed, None, &|job| job.authority.approval = Some(approval()));
    add("the same, another job", closed, Some("was used"), &|job| {
        job.authority.approval = Some(approval());
    });
    add("own arguments without the right", clip, Some(RAW_FORBIDDEN), &|job| {
        args(job, &["-i", "{in0}", "-c:v", "libx264", "-an", "-crf", "20", "{out0}"]);
    });
    cases
}

fn approval() -> ApprovalId {
    ApprovalId::new(1, [1; 10])
}

fn approved(job: &Job) -> ApprovalRecord {
    let admin = Actor::NatsLogin { user: "UADMIN".to_owned(), name: "admin".to_owned() };
    ApprovalRecord {
        id: approval(),
        tenant: job.tenant.clone(),
        requester: job.actor.clone(),
        interested: vec![job.actor.clone()],
        action: Action::SubmitTranscode,
        request: job_digest(&job.request),
        shown: String::new(),
        approvers_min: 1,
        groups: BTreeSet::new(),
        created_at: clock::now(),
        expires_at: clock::now().plus_ms(HOUR_MS),
        voices: vec![Voice {
            actor: admin,
            groups: BTreeSet::new(),
            approves: true,
            reason: None,
            at: clock::now(),
        }],
        used_for: Some(job.id.to_string()),
    }
}

async fn records(intake: &Bus, cases: &[Case]) {
    use RoleName::{Submitter, Viewer};
    let submitter = |id| key_record(id, &[Submitter]);
    let past = UnixMs(clock::now().0 - HOUR_MS);
    let keys = [
        submitter("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
        key_record("bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb", &[Viewer]),
        KeyRecord {
            tenant: "bolt".parse().unwrap(),
            ..submitter("dddddddddddddddddddddddddddddddd")
        },
        KeyRecord { revoked_at: Some(past), ..submitter("eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee") },
        KeyRecord { expires_at: Some(past), ..submitter("ffffffffffffffffffffffffffffffff") },
        KeyRecord {
            networks: vec!["10.0.0.0/8".parse().unwrap()],
            ..submitter("99999999999999999999999999999999")
        },
    ];
    for key in keys {
        intake.bucket("keys").create(key.id.as_str(), &key).await.unwrap();
    }
    let (_, job, _) = cases.iter().find(|(name, ..)| *name == "an approval of this job").unwrap();
    let record = approved(job);
    let key = format!("{}.{}", record.tenant, record.id);
    intake.bucket("approvals").create(&key, &record).await.unwrap();
}

const ENCRYPT: &str = "-encryption_scheme cenc-aes-ctr \
     -encryption_key 00112233445566778899aabbccddeeff \
     -encryption_kid 00112233445566778899aabbccddeeff -c:v libx264 -c:a aac -f mp4";

#[tokio::test(flavor = "multi_thread")]
async fn iam_06_the_validator_believes_records_and_policy_not_intake() {
    let dir = clip::dir("enforce");
    let (clip, closed) =
        (clip::sample(&dir, Container::Mp4), clip::make(&dir, "closed.mp4", ENCRYPT));
    let cases = cases(&clip, &closed);
    let server = broker().await;
    tenant(&server, "acme", false).await;
    let intake = Bus::connect(Role::Intake, &nats(&server, Role::Intake)).await.unwrap();
    records(&intake, &cases).await;
    let bytes =
        |job: &Job| if job.inputs[0].sha256 == Digest::of(&closed) { &closed } else { &clip };
    let objects =
        cases.iter().map(|(_, job, _)| (format!("/{}", job.inputs[0].key), bytes(job).clone()));
    let objects: BTreeMap<String, Vec<u8>> = objects.collect();
    let (shutdown, mut tasks) = (Shutdown::new(), JoinSet::new());
    let url = store(Arc::new(objects), &mut tasks).await;
    let asked = signer(&server, url, shutdown.clone(), &mut tasks).await;
    let mut validator = JoinSet::new();
    validator.spawn(run(config(&server, &dir), shutdown.clone()));
    for (_, job, _) in &cases {
        intake.publish(&Outgoing::job(job.clone(), 0)).await.unwrap();
    }
    for (name, job, refusal) in &cases {
        let judged = settled(&intake, job).await;
        let failure = judged.failure.as_ref();
        let Some(words) = refusal else {
            assert_eq!(judged.state, EventKind::Validated, "{name}: {failure:?}");
            let ours = judged
                .decisions
                .iter()
                .map(|decided| (decided.node, decided.action, decided.outcome));
            let expect = [Action::ReadSource, Action::SubmitTranscode]
                .map(|action| (Role::Validator, action, Outcome::Allowed));
            assert_eq!(ours.collect::<Vec<_>>(), expect, "{name}");
            continue;
        };
        assert_eq!(judged.state, EventKind::Rejected, "{name}");
        let failure = failure.unwrap();
        assert!(failure.message.contains(words), "{name}: {failure:?}");
        let code = if *words == RAW_FORBIDDEN {
            RejectCode::RequestForbidden
        } else {
            RejectCode::PolicyDenied
        };
        assert_eq!(failure.code, code, "{name}");
        assert_eq!(judged.plan, None, "{name}");
        // Who asked is judged before anything is opened; policy needs to know what the bytes are.
        let by_policy = judged.decisions.last();
        let read = asked.lock().unwrap().contains_key(&job.inputs[0].key);
        let needs_bytes = by_policy.is_some() || words.contains("approval") || *words == "was used";
        assert_eq!(read, needs_bytes, "{name}");
        if let Some(decided) = by_policy {
            assert_ne!(decided.outcome, Outcome::Allowed, "{name}");
        }
    }
    shutdown.begin();
    validator.join_next().await.unwrap().unwrap().unwrap();
}

/// A set that does not compile, as between two versions of hotcell, permits nothing and rejects
/// nothing: the job waits for one that does. One that fails on the job itself refuses it.
#[tokio::test(flavor = "multi_thread")]
async fn iam_06_policies_that_do_not_compile_keep_a_job_waiting() {
    let dir = clip::dir("enforce-broken");
    let server = broker().await;
    tenant(&server, "acme", false).await;
    let clip = clip::sample(&dir, Container::Mp4);
    let intake = Bus::connect(Role::Intake, &nats(&server, Role::Intake)).await.unwrap();
    let (shutdown, mut tasks) = (Shutdown::new(), JoinSet::new());
    let jobs = [job(1, &clip, "video/mp4"), job(2, &clip, "video/mp4")];
    let objects = jobs.iter().map(|job| (format!("/{}", job.inputs[0].key), clip.clone()));
    let url = store(Arc::new(objects.collect()), &mut tasks).await;
    let asked = signer(&server, url, shutdown.clone(), &mut tasks).await;
    let policies = intake.bucket("policies");
    let put = async |text: &str| {
        let (_, revision) = policies.look::<PolicyRecord>("acme").await.unwrap();
        let (text, digest) = (text.to_owned(), Digest::of(text.as_bytes()));
        let record = PolicyRecord { version: 1, text, digest, by: None, at: clock::now() };
        policies.update("acme", &record, revision).await.unwrap();
    };
    put("forbid (principal, action, resource) when { context.colour };").await;
    let mut validator = JoinSet::new();
    validator.spawn(run(config(&server, &dir), shutdown.clone()));
    intake.publish(&Outgoing::job(jobs[0].clone(), 0)).await.unwrap();
    let until = Instant::now() + rig::DEADLINE;
    // The second time it is tried again.
    while asked.lock().unwrap().get(&jobs[0].inputs[0].key).is_none_or(|count| *count < 2) {
        assert!(Instant::now() < until, "it was not tried again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let waits = intake.job(&jobs[0].tenant, &jobs[0].id).await.unwrap().unwrap();
    assert_eq!(waits.message.get().state, EventKind::Submitted);
    put("").await;
    assert_eq!(settled(&intake, &jobs[0]).await.state, EventKind::Validated);
    let large = "@id(\"large\") @about(\"x\") forbid (principal, action, resource)
        when { (context.source.bytes + 1) * 9223372036854775807 > 1 };";
    put(large).await;
    // Past the promised life of a set in memory: that it is in force then is what is tested.
    tokio::time::sleep(Duration::from_millis(LIFE_MS + 100)).await;
    intake.publish(&Outgoing::job(jobs[1].clone(), 0)).await.unwrap();
    let refused = settled(&intake, &jobs[1]).await;
    assert_eq!(refused.state, EventKind::Rejected);
    let words = "by policy acme/large; allowed: acme/large: cannot be evaluated on this request";
    let failure = refused.failure.unwrap();
    assert!(failure.message.contains(words), "{failure:?}");
    // NEW-07: the refusal is a decision like any other, of this set.
    let said = refused.decisions.last().unwrap();
    let engine = Engine::compile(None, Some((&refused.tenant, large))).unwrap();
    assert_eq!((said.node, said.outcome), (Role::Validator, Outcome::Denied));
    assert_eq!((&said.policies, said.digest), (&vec!["acme/large".to_owned()], engine.digest()));
    shutdown.begin();
    validator.join_next().await.unwrap().unwrap().unwrap();
}

/// What the tenant's record says now counts: state and size. A record that is no record is not a
/// permission.
#[tokio::test(flavor = "multi_thread")]
async fn iam_06_a_tenant_that_is_not_served_gets_no_plan() {
    let dir = clip::dir("enforce-tenant");
    let server = broker().await;
    tenant(&server, "acme", false).await;
    let clip = clip::sample(&dir, Container::Mp4);
    let intake = Bus::connect(Role::Intake, &nats(&server, Role::Intake)).await.unwrap();
    let admin = Bus::connect(Role::Provisioner, &nats(&server, Role::Provisioner)).await.unwrap();
    let (shutdown, mut tasks) = (Shutdown::new(), JoinSet::new());
    let names: Vec<Job> = (1..=5).map(|number| job(number, &clip, "video/mp4")).collect();
    let objects = names.iter().map(|job| (format!("/{}", job.inputs[0].key), clip.clone()));
    let url = store(Arc::new(objects.collect()), &mut tasks).await;
    let asked = signer(&server, url, shutdown.clone(), &mut tasks).await;
    let mut validator = JoinSet::new();
    validator.spawn(run(config(&server, &dir), shutdown.clone()));
    let tenants = admin.bucket("tenants");
    let base = tenants.get::<TenantRecord>("acme").await.unwrap().unwrap().value;
    let mut small = base.clone();
    small.quotas.input_bytes_max = clip.len() as u64 - 1;
    let state = |state| TenantRecord { state, ..base.clone() };
    for (job, record, words) in [
        (&names[0], state(TenantState::Suspended), Some("suspended")),
        (&names[1], state(TenantState::Removed), Some("removed")),
        (&names[2], small, Some("larger than the tenant's plan")),
        (
            &names[3],
            TenantRecord { id: "bolt".parse().unwrap(), ..base.clone() },
            Some("no tenant"),
        ),
        (&names[4], base.clone(), None),
    ] {
        let (_, revision) = tenants.look::<TenantRecord>("acme").await.unwrap();
        tenants.update("acme", &record, revision).await.unwrap();
        intake.publish(&Outgoing::job(job.clone(), 0)).await.unwrap();
        let judged = settled(&intake, job).await;
        let said = judged.failure.as_ref().map(|failure| failure.message.clone());
        match words {
            Some(words) => {
                assert!(said.as_ref().is_some_and(|said| said.contains(words)), "{said:?}")
            }
            None => assert_eq!(judged.state, EventKind::Validated, "{said:?}"),
        }
    }
    let read: Vec<BlobKey> = asked.lock().unwrap().keys().cloned().collect();
    assert_eq!(read, [names[4].inputs[0].key.clone()], "nothing else was opened");
    shutdown.begin();
    validator.join_next().await.unwrap().unwrap().unwrap();
}

//! Where a job's outputs may go, decided as the signer decides it: from the records of a real broker
//! and the tenant's own policies.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use hotcell_nats_config::{
    InitOptions, Login, Replicas, TenantSpec,
    testing::{self, NOW, PLACES, TestServer},
};
use hotcell_policy::{
    PolicyStore, Put,
    recheck::{Case, Recheck, RecheckError},
};
use hotcell_schemas::{
    ApprovalId, EventKind, Job, JobId, Plan, RejectCode, Role, UnixMs,
    approval::{ApprovalRecord, Voice, job_digest},
    destination::DestinationRecord,
    identity::{Action, Authority, Outcome, RoleName},
    job::Stamp,
};
use hotcell_stage::{Bus, NatsConfig};
use serde_json::json;
use support::{tenant, user};

const HOUR_MS: u64 = 3_600_000;

fn record(of: &str, name: &str, place: [&str; 3]) -> DestinationRecord {
    let created_at = UnixMs(NOW.0 - 2 * HOUR_MS);
    DestinationRecord { created_at, ..testing::destination(of, name, place) }
}

/// A job of a person of `acme` who may publish and has just shown a second factor.
fn job(destination: Option<&str>) -> Job {
    let mut request = json!({ "inputs": [{ "url": "upload:a.mp4" }], "outputFormat": "mp4",
        "preset": { "quality": "low", "resolution": "240p" } });
    request["destination"] = json!(destination);
    Job {
        state: EventKind::Validated,
        actor: user("ann"),
        authority: Authority {
            roles: [RoleName::Submitter, RoleName::Publisher].into(),
            mfa: true,
            auth_time: Some(NOW),
            ..Authority::default()
        },
        request: serde_json::from_value(request).unwrap(),
        plan: Some(plan()),
        stamps: vec![Stamp { event: EventKind::Submitted, at: NOW }],
        ..testing::job("acme", JobId::new(1, [1; 10]))
    }
}

fn plan() -> Plan {
    let limits = json!({ "memory_bytes": 1, "cpu_secs": 1, "wall_secs": 1, "output_bytes": 1,
        "temp_bytes": 1, "procs": 1, "stall_secs": 1, "files": 1 });
    let one = json!({ "name": "out.mp4", "format": "mp4", "content_type": "video/mp4",
        "video": null, "audio": null });
    let whole =
        json!({ "input": "mp4", "outputs": [one], "argv": [], "filters": [], "limits": limits });
    serde_json::from_value(whole).unwrap()
}

struct Rig {
    _server: TestServer,
    signer: Recheck,
    operator: Bus,
    intake: Bus,
}

impl Rig {
    async fn start() -> Self {
        Box::pin(Self::start_all()).await
    }

    async fn start_all() -> Self {
        let options = InitOptions { now: NOW, ..InitOptions::default() };
        let server = TestServer::start(&options).await.unwrap();
        let admin = server.admin().await.unwrap();
        admin.provision(Replicas::One, NOW).await.unwrap();
        for name in ["acme", "bolt"] {
            let spec = TenantSpec::new(tenant(name), vec!["cpu".parse().unwrap()]);
            admin.add_tenant(&spec, &"app".parse().unwrap(), NOW).await.unwrap();
        }
        let bus = async |role| {
            let config: NatsConfig = server.config(&Login::Service(role)).unwrap();
            Bus::connect(role, &config).await.unwrap()
        };
        Self {
            signer: Recheck::new(&bus(Role::Signer).await),
            operator: bus(Role::Provisioner).await,
            intake: bus(Role::Intake).await,
            _server: server,
        }
    }

    async fn enter(&self, record: &DestinationRecord) {
        let key = DestinationRecord::key(&record.tenant, &record.name);
        self.operator.bucket("destinations").create(&key, record).await.unwrap();
    }

    /// What the signer says of storing the outputs: the policies that decided, or code and sentence.
    async fn says(&self, job: &Job) -> Result<Vec<String>, (RejectCode, String)> {
        let plan = job.plan.as_ref().unwrap();
        let case = Case { job, plan, sniffed: None, made: None, submitted_at: NOW };
        match self.signer.decide(case, &[Action::PublishOutput]).await.unwrap() {
            Ok(decided) => {
                assert_eq!(decided.len(), 1);
                assert_eq!((decided[0].node, decided[0].outcome), (Role::Signer, Outcome::Allowed));
                Ok(decided[0].policies.clone())
            }
            Err(refused) => Err((refused.failure.code, refused.failure.message)),
        }
    }
}

/// IAM-09: an output bucket, prefix or host that the tenant's policy does not list is refused.
#[tokio::test]
async fn iam_09_another_bucket_prefix_or_host_is_refused_by_name() {
    let rig = Rig::start().await;
    let host = "https://s3.example.com";
    let places = [
        ("listed", [host, "media", "video/out"], true),
        ("bucket", [host, "media-x", "video/out"], false),
        ("prefix", [host, "media", "video-x/out"], false),
        ("above", [host, "media", ""], false),
        ("host", ["https://s3.example.com.evil.org", "media", "video/out"], false),
        ("port", ["https://s3.example.com:9000", "media", "video/out"], false),
    ];
    for (name, place, _) in places {
        rig.enter(&record("acme", name, place)).await;
    }
    // Without a policy of the tenant's own each is a publisher's: it is the policy that refuses.
    for (name, ..) in places {
        assert_eq!(rig.says(&job(Some(name))).await, Ok(vec!["publisher".to_owned()]), "{name}");
    }
    let acme = tenant("acme");
    let put = Put { tenant: Some(&acme), text: PLACES, by: None, at: NOW, over: None };
    PolicyStore::new(&rig.intake).put(put).await.unwrap();
    // A set in memory lives so long at most.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while rig.says(&job(Some("host"))).await.is_ok() {
        assert!(std::time::Instant::now() < deadline, "the policy is not in force");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    for (name, _, listed) in places {
        match rig.says(&job(Some(name))).await {
            Ok(by) => assert_eq!((listed, by), (true, vec!["publisher".to_owned()]), "{name}"),
            Err((code, message)) => {
                assert_eq!((listed, code), (false, RejectCode::PolicyDenied), "{name}");
                assert!(message.contains("acme/places"), "{name}: {message}");
                assert!(message.contains("media/video/"), "{name}: {message}");
            }
        }
    }
    assert!(rig.says(&job(None)).await.is_ok(), "the store is listed");
}

/// IAM-06, IAM-09: the defaults, as the signer holds to them whatever intake let pass.
#[tokio::test]
async fn iam_09_step_15_who_may_not_publish_elsewhere_is_refused_by_default() {
    let rig = Rig::start().await;
    rig.enter(&record("acme", "cdn", ["https://s3.example.com", "media", ""])).await;
    let with = |change: &dyn Fn(&mut Authority)| {
        let mut job = job(Some("cdn"));
        change(&mut job.authority);
        job
    };
    assert!(rig.says(&with(&|_| ())).await.is_ok());
    let submitter = with(&|authority| authority.roles = [RoleName::Submitter].into());
    let (code, message) = rig.says(&submitter).await.unwrap_err();
    assert_eq!(code, RejectCode::PolicyDenied);
    assert!(message.contains("outputs that go to the store"), "{message}");
    let plain = with(&|authority| authority.mfa = false);
    let (_, message) = rig.says(&plain).await.unwrap_err();
    assert!(message.contains("step-up-external"), "{message}");
    let stale = with(&|it| it.auth_time = Some(UnixMs(NOW.0 - 301_000)));
    let (_, message) = rig.says(&stale).await.unwrap_err();
    assert!(message.contains("step-up-external"), "{message}");
}

/// IAM-09: a name leads where the tenant's own record says, or nowhere.
#[tokio::test]
async fn iam_09_a_name_without_the_tenant_s_own_sound_record_leads_nowhere() {
    let rig = Rig::start().await;
    let place = ["https://s3.example.com", "media", "video"];
    let unknown = async |name: &str| {
        let (code, message) = rig.says(&job(Some(name))).await.unwrap_err();
        assert_eq!(code, RejectCode::DestinationUnknown, "{name}: {message}");
        assert!(message.contains(name), "{message}");
        let alone = rig.signer.destination(&job(Some(name))).await.unwrap();
        assert_eq!(alone.unwrap_err().code, RejectCode::DestinationUnknown);
    };
    unknown("cdn").await;
    // Another tenant's of the same name; then one that lies under a key of ours.
    rig.enter(&record("bolt", "cdn", place)).await;
    unknown("cdn").await;
    let bucket = rig.operator.bucket("destinations");
    bucket.create("acme.theirs", &record("bolt", "theirs", place)).await.unwrap();
    unknown("theirs").await;
    bucket.create("acme.other", &record("acme", "cdn", place)).await.unwrap();
    unknown("other").await;
    // An address that could be read in two ways.
    rig.enter(&record("acme", "forged", ["https://s3.example.com@evil.org", "media", "v"])).await;
    unknown("forged").await;
    rig.enter(&record("acme", "dots", ["https://s3.example.com", "media", "v/../.."])).await;
    unknown("dots").await;
    // One that was entered after the job was submitted: the name led elsewhere then.
    let late = DestinationRecord { created_at: NOW.plus_ms(1), ..record("acme", "late", place) };
    rig.enter(&late).await;
    unknown("late").await;

    rig.enter(&record("acme", "cdn", place)).await;
    assert_eq!(rig.signer.destination(&job(Some("cdn"))).await.unwrap().unwrap(), {
        Some(record("acme", "cdn", place))
    });
    assert_eq!(rig.signer.destination(&job(None)).await.unwrap(), Ok(None));
    assert!(rig.says(&job(Some("cdn"))).await.is_ok());
    // Removed, it leads nowhere again.
    let revision = bucket.get::<DestinationRecord>("acme.cdn").await.unwrap().unwrap().revision;
    bucket.remove("acme.cdn", revision).await.unwrap();
    unknown("cdn").await;
    // What cannot be read is no permission, and no refusal that ends the job.
    bucket.create("acme.broken", &"not a record").await.unwrap();
    let job = job(Some("broken"));
    let case = Case {
        job: &job,
        plan: job.plan.as_ref().unwrap(),
        sniffed: None,
        made: None,
        submitted_at: NOW,
    };
    let said = rig.signer.decide(case, &[Action::PublishOutput]).await;
    assert!(matches!(said, Err(RecheckError::Record(_))), "{said:?}");
}

fn approval(of: &Job) -> ApprovalRecord {
    let voice = Voice {
        actor: user("bob"),
        groups: std::collections::BTreeSet::new(),
        approves: true,
        reason: None,
        at: NOW,
    };
    ApprovalRecord {
        id: ApprovalId::new(1, [1; 10]),
        tenant: of.tenant.clone(),
        requester: of.actor.clone(),
        interested: vec![of.actor.clone()],
        action: Action::SubmitTranscode,
        request: job_digest(&of.request),
        shown: String::new(),
        approvers_min: 1,
        groups: std::collections::BTreeSet::new(),
        created_at: UnixMs(NOW.0 - HOUR_MS),
        expires_at: NOW.plus_ms(HOUR_MS),
        voices: vec![voice],
        used_for: Some(of.id.to_string()),
    }
}

/// NEW-08, BRK-84: what was approved is one destination, as it was when approval was asked for.
#[tokio::test]
async fn new_08_an_approval_of_one_destination_opens_no_other() {
    let rig = Rig::start().await;
    rig.enter(&record("acme", "cdn", ["https://s3.example.com", "media", "video"])).await;
    rig.enter(&record("acme", "archive", ["https://s3.example.com", "archive", ""])).await;
    let mut approved = job(Some("cdn"));
    approved.authority.mfa = false;
    let given = approval(&approved);
    let key = format!("acme.{}", given.id);
    rig.intake.bucket("approvals").create(&key, &given).await.unwrap();
    let (_, message) = rig.says(&approved).await.unwrap_err();
    assert!(message.contains("step-up-external"), "nothing is approved that is not shown");
    approved.authority.approval = Some(given.id.clone());
    assert!(rig.says(&approved).await.is_ok());
    // The same approval, the request changed to another destination, or to none.
    for other in [Some("archive"), None] {
        let mut changed = approved.clone();
        changed.request.destination = other.map(|name| name.parse().unwrap());
        let (code, message) = rig.says(&changed).await.unwrap_err();
        assert_eq!(code, RejectCode::PolicyDenied);
        assert!(message.contains("another request was approved"), "{message}");
    }
    // The same name, led elsewhere between the approval and the job.
    let bucket = rig.operator.bucket("destinations");
    let revision = bucket.get::<DestinationRecord>("acme.cdn").await.unwrap().unwrap().revision;
    let revision = bucket.remove("acme.cdn", revision).await.unwrap();
    let (code, _) = rig.says(&approved).await.unwrap_err();
    assert_eq!(code, RejectCode::DestinationUnknown);
    let elsewhere = DestinationRecord {
        created_at: UnixMs(NOW.0 - HOUR_MS + 1),
        ..record("acme", "cdn", ["https://s3.example.org", "media", "video"])
    };
    bucket.update("acme.cdn", &elsewhere, revision).await.unwrap();
    let (code, message) = rig.says(&approved).await.unwrap_err();
    assert_eq!(code, RejectCode::PolicyDenied);
    assert!(message.contains("entered after the approval was asked for"), "{message}");
}

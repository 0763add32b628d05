//! An installation, provisioned and compared; tenants at run time; accounts that are refused.

use crate::world::*;
use async_nats::jetstream;
use hotcell_nats_config::{
    AdminError, InitOptions, Installation, Login, Replicas, TenantSpec, accounts, api,
    claims::SigningKey,
    init, jwt,
    keys::Missing,
    testing::{NOW, TestServer},
};
use hotcell_schemas::{Role, TenantId, UnixMs, tenancy::TenantState};
use serde_json::json;
use std::{os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

#[tokio::test]
async fn provision_twice_then_check_is_empty_and_changes_are_seen() {
    let (server, admin) = provisioned().await;
    admin.add_tenant(&tenant("acme"), &"app".parse().unwrap(), NOW).await.unwrap();
    assert_eq!(admin.provision(Replicas::One, NOW).await.unwrap(), Vec::<String>::new());
    assert_eq!(texts(&admin.check(Replicas::One).await.unwrap()), Vec::<String>::new());

    // The provisioner's own login may change a consumer.
    let provisioner = server.connect(&Login::Service(Role::Provisioner)).await.unwrap();
    let change = json!({"stream_name": "JOBS", "action": "", "config": {
        "durable_name": "hasher", "name": "hasher", "deliver_policy": "all", "ack_policy": "explicit",
        "ack_wait": 30_000_000_000_u64, "max_deliver": -1, "replay_policy": "instant",
        "filter_subjects": ["job.*.*.encoded"], "max_waiting": 512, "max_ack_pending": 7}});
    let subject = api::consumer_create("JOBS", "hasher");
    provisioner.request(subject, change.to_string().into()).await.unwrap();
    assert_eq!(
        texts(&admin.check(Replicas::One).await.unwrap()),
        ["consumer hasher: max_ack_pending is 7, the code says 1024"]
    );

    // A hand with all rights may do more: a consumer gone, a reader added, a bucket altered.
    let hand = jetstream::new(by_hand(&server).await);
    let jobs = hand.get_stream("JOBS").await.unwrap();
    jobs.delete_consumer("validator").await.unwrap();
    let spy = jetstream::consumer::pull::Config {
        durable_name: Some("spy".to_owned()),
        ..Default::default()
    };
    jobs.create_consumer(spy).await.unwrap();
    let mut keys = hand.get_stream("KV_keys").await.unwrap().get_info().await.unwrap().config;
    keys.max_age = Duration::from_secs(60);
    keys.republish = Some(jetstream::stream::Republish {
        source: ">".to_owned(),
        destination: "stolen.>".to_owned(),
        headers_only: false,
    });
    keys.duplicate_window = Duration::from_secs(60);
    hand.update_stream(&keys).await.unwrap();
    let found = texts(&admin.check(Replicas::One).await.unwrap());
    let expected = [
        "stream KV_keys: duplicate_window is 60000000000, the code says 120000000000",
        "stream KV_keys: max_age is 60000000000, the code says 0",
        // Members come in the server's order or sorted, as serde_json is built beside other crates.
        "stream KV_keys: republish is",
        "consumer validator is missing",
        "consumer hasher: max_ack_pending is 7, the code says 1024",
        "consumer spy of stream JOBS is not in the code",
    ];
    for line in expected {
        assert!(found.iter().any(|text| text.starts_with(line)), "{line} not in {found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");

    // Provisioning mends consumers, and says which stream it may not mend.
    let refused = admin.provision(Replicas::One, NOW).await;
    assert!(matches!(refused, Err(AdminError::Differs(_))), "{refused:?}");
}

#[tokio::test]
async fn check_before_provision_names_what_is_missing() {
    let server = TestServer::start(&options()).await.unwrap();
    let admin = server.admin().await.unwrap();
    let found = texts(&admin.check(Replicas::One).await.unwrap());
    assert!(found.contains(&"stream JOBS is missing".to_owned()), "{found:?}");
    let added = admin.add_tenant(&tenant("acme"), &"app".parse().unwrap(), NOW).await;
    assert!(added.is_err(), "no record, no act: there is no log yet");
}

#[tokio::test]
async fn a_changed_account_is_seen_and_mended() {
    let (mut server, admin) = provisioned().await;
    let installation = server.installation().unwrap();
    let keys = installation.keys();
    let stored = installation.platform_accounts().unwrap();
    let encoders = stored.iter().find(|account| account.name == "ENCODERS").unwrap();
    let mut body = encoders.claims.nats.clone();
    body.limits.conn = 5;
    let later = UnixMs(NOW.0 + 1000);
    let signer = &keys.operator_signing;
    let changed = jwt::encode(signer, later, &encoders.claims.sub, "ENCODERS", &body).unwrap();
    admin.push_account(&changed).await.unwrap();
    assert_eq!(
        texts(&admin.check(Replicas::One).await.unwrap()),
        ["account ENCODERS: nats.limits.conn is 5, the code says 1000"]
    );
    // The configuration still preloads the earlier JWT; the later one is the server's.
    server.kill().unwrap();
    server.start_again().await.unwrap();
    let admin = server.admin().await.unwrap();
    assert_eq!(admin.check(Replicas::One).await.unwrap().len(), 1);
    assert_eq!(
        admin.provision(Replicas::One, UnixMs(NOW.0 + 2000)).await.unwrap(),
        ["account ENCODERS"]
    );
    assert!(admin.check(Replicas::One).await.unwrap().is_empty());
}

/// Rows that came after the first tenants.
const NEWER: [&str; 4] = ["tenant.ask", "tenant.asked", "tenant.approvals", "events.state"];

// An installation of before state events: `nats check` names what it lacks, `nats provision` makes it,
// and what was published before is told to nobody.
#[tokio::test]
async fn an_earlier_installation_gets_the_consumer_of_states_from_now_on() {
    let (server, admin) = provisioned().await;
    let operator = by_hand(&server).await;
    operator.request(api::consumer_delete("JOBS", "teller"), "".into()).await.unwrap();
    assert_eq!(texts(&admin.check(Replicas::One).await.unwrap()), ["consumer teller is missing"]);
    let submit = async |job: &str| {
        // With the stream's word that it is stored: what follows goes by another connection.
        let ack = operator.request(format!("job.acme.{job}.submitted"), "event".into()).await;
        let ack: serde_json::Value = serde_json::from_slice(&ack.unwrap().payload).unwrap();
        assert!(ack["seq"].is_u64(), "{ack}");
    };
    let pending = async || {
        let info = operator.request(api::consumer_info("JOBS", "teller"), "{}".into()).await;
        let info: serde_json::Value = serde_json::from_slice(&info.unwrap().payload).unwrap();
        info["num_pending"].as_u64().unwrap()
    };
    submit("0123456789abcdef0123456789abcdef").await;
    assert_eq!(admin.provision(Replicas::One, NOW).await.unwrap(), ["consumer teller"]);
    no_difference(&admin).await;
    assert_eq!(pending().await, 0, "what was published before is nobody's to hear");
    submit("0123456789abcdef0123456789abcdee").await;
    let deadline = std::time::Instant::now() + DEADLINE;
    while pending().await != 1 {
        assert!(std::time::Instant::now() < deadline, "never told");
    }
}

// BRK-78, NEW-16: what an earlier version rendered for a tenant has not the newer rows; `nats
// provision`, and so `up`, gives them to it, and its login file stays as it is.
#[tokio::test]
async fn an_earlier_tenant_gets_the_rows_that_came_since() {
    let (server, admin) = provisioned().await;
    let added = admin.add_tenant(&tenant("acme"), &"app".parse().unwrap(), NOW).await.unwrap();
    let account = &added.record.account;
    let (installation, acme) = (server.installation().unwrap(), "acme".parse().unwrap());
    let mut body = installation.tenant_account(&acme, TenantState::Active).unwrap().claims.nats;
    body.imports.retain(|import| !NEWER.contains(&import.name.as_str()));
    body.limits.imports = i64::try_from(body.imports.len()).unwrap();
    for key in &mut body.signing_keys {
        let SigningKey::Scoped(scope) = key else { panic!("{key:?}") };
        let before = |subject: &String| !subject.starts_with("api.a");
        scope.template.permissions.publish.allow.retain(before);
    }
    let signer = &installation.keys().operator_signing;
    let earlier = jwt::encode(signer, NOW, account, "tenant-acme", &body).unwrap();
    admin.push_account(&earlier).await.unwrap();
    let login = std::fs::read(&added.creds).unwrap();
    let mut before = Watched::connect(&server, &program("acme")).await;
    before.publish_denied("api.ask").await;

    let found = admin.provision(Replicas::One, UnixMs(NOW.0 + 1000)).await.unwrap();
    assert_eq!(found, ["account tenant-acme"]);
    let after = server.connect(&program("acme")).await.unwrap();
    let mut events = after.subscribe("events.*.state").await.unwrap();
    let intake = server.connect(&Login::Service(Role::Intake)).await.unwrap();
    let mut served = intake.subscribe("tenant.*.ask").await.unwrap();
    settle(&intake).await;
    let ask = after.request("api.ask", "?".into());
    let answer = async {
        let asked = futures::StreamExt::next(&mut served).await.unwrap();
        assert_eq!(asked.subject.as_str(), format!("tenant.{account}.ask"));
        tell(&intake, asked.reply.unwrap(), "made".to_owned()).await;
    };
    let (answered, ()) = tokio::join!(ask, answer);
    assert_eq!(answered.unwrap().payload, "made");
    let webhook = server.connect(&Login::Service(Role::Webhook)).await.unwrap();
    let job = "0123456789abcdef0123456789abcdef";
    tell(&webhook, format!("events.{account}.{job}.state"), "state".to_owned()).await;
    let event = futures::StreamExt::next(&mut events).await.unwrap();
    assert_eq!(event.subject.as_str(), format!("events.{job}.state"));
    assert_eq!(std::fs::read(&added.creds).unwrap(), login);
}

#[tokio::test]
async fn a_tenant_added_at_run_time_connects_at_once_and_after_a_restart() {
    let (mut server, admin) = provisioned().await;
    let spec = tenant("bolt");
    let added = admin.add_tenant(&spec, &"app".parse().unwrap(), NOW).await.unwrap();
    assert_eq!(added.creds, server.dir().join("creds/tenant-bolt-app.creds"));
    server.connect(&program("bolt")).await.unwrap();

    // Again: the same, and a higher cap on the running consumer.
    let again = admin.add_tenant(&spec, &"app".parse().unwrap(), UnixMs(5)).await.unwrap();
    assert_eq!(again.record, added.record);
    let more = TenantSpec { concurrency: 32, ..spec.clone() };
    admin.add_tenant(&more, &"app".parse().unwrap(), NOW).await.unwrap();
    assert_eq!(admin.tenants().await.unwrap()[0].concurrency, 32);
    assert!(admin.check(Replicas::One).await.unwrap().is_empty());
    let fewer = TenantSpec { pools: vec!["gpu".parse().unwrap()], ..spec };
    let refused = admin.add_tenant(&fewer, &"app".parse().unwrap(), NOW).await;
    assert!(matches!(refused, Err(AdminError::PoolRemoved(_))), "{refused:?}");

    server.kill().unwrap();
    server.start_again().await.unwrap();
    server.connect(&program("bolt")).await.unwrap();
    let admin = server.admin().await.unwrap();
    assert!(admin.check(Replicas::One).await.unwrap().is_empty());
}

// The server answers "jwt updated" to each of these, stores it, and locks the tenant out later.

#[tokio::test]
async fn an_account_that_the_server_would_not_honour_is_refused_before_the_push() {
    let (server, admin) = provisioned().await;
    let acme: TenantId = "acme".parse().unwrap();
    let other_dir = tempfile::tempdir().unwrap();
    let foreign = init(other_dir.path(), &options()).unwrap().render_tenant(&acme, NOW).unwrap();
    let installation = server.installation().unwrap();
    let keys = installation.keys();
    let own = installation.tenant_keys(&acme, Missing::Refuse).unwrap();
    let other = foreign.claims.sub.clone();
    let spying = {
        let mut body = installation.tenant_account(&acme, TenantState::Active).unwrap().claims.nats;
        let import = &mut body.imports[0];
        import.subject = import.subject.replace(&own.account.public_key(), &other);
        jwt::encode(&keys.operator_signing, NOW, &own.account.public_key(), "x", &body).unwrap()
    };
    for bad in [foreign.jwt.as_str(), &spying, "not.a.jwt"] {
        let refused = admin.push_account(bad).await;
        assert!(matches!(refused, Err(AdminError::Refused(_))), "{refused:?}");
    }
    // What the defence is for: pushed without it, the broker says yes.
    let sys = server.connect(&Login::Sys).await.unwrap();
    let answer = sys.request(api::CLAIMS_UPDATE, spying.into()).await.unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(answer["data"]["code"], 200, "{answer}");
}

// BRK-10. The broker expands a worker called `*`, so the name must never reach it.

// NEW-16, a few of the matrix: the rights that the accounts carry are those of the table.

// The signer pulls from a tenant's consumer and acks, with its own rights only.

// The fence: one compare-and-set covers all of a job's subjects, also `validated.<pool>`, which is

// one token longer, by the filter `job.<tenant>.<job>.>`.

#[test]
fn init_keeps_keys_and_logins_and_closes_every_file() {
    let dir = tempfile::tempdir().unwrap();
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    let files = [
        "keys/operator.nk",
        "creds/intake.creds",
        "creds/worker-w1.creds",
        "creds/tenant-acme-app.creds",
        "trust.json",
        "accounts/PIPELINE.jwt",
        "accounts/operator.jwt",
    ];
    init(dir.path(), &options()).unwrap();
    let before: Vec<_> = files.iter().map(|name| read(name)).collect();
    let later = InitOptions { now: UnixMs(NOW.0 + 86_400_000), ..options() };
    init(dir.path(), &later).unwrap();
    let after: Vec<_> = files.iter().map(|name| read(name)).collect();
    assert!(before == after, "a second init changed a file");
    closed(dir.path());

    // Another worker's pools, or another tenant with the same file name, is not overwritten.
    let gpu = vec![("w1".parse().unwrap(), vec!["gpu".parse().unwrap()])];
    assert!(init(dir.path(), &InitOptions { workers: gpu, ..options() }).is_err());
    let twins = vec![
        ("a-b".parse().unwrap(), "c".parse().unwrap()),
        ("a".parse().unwrap(), "b-c".parse().unwrap()),
    ];
    assert!(init(dir.path(), &InitOptions { tenants: twins, ..options() }).is_err());

    std::fs::remove_file(dir.path().join("keys/encoders.nk")).unwrap();
    assert!(Installation::open(dir.path()).is_err());
}

fn closed(dir: &Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        if entry.file_type().unwrap().is_dir() {
            assert_eq!(mode, 0o700, "{:?}", entry.path());
            closed(&entry.path());
        } else {
            assert_eq!(mode, 0o600, "{:?}", entry.path());
        }
    }
}

#[test]
fn the_exports_are_the_rows_that_leave_the_pipeline() {
    let subjects: Vec<String> =
        accounts::exports().into_iter().map(|export| export.subject).collect();
    assert_eq!(
        subjects,
        [
            "next.*.*",
            "lease.*.inputs",
            "lease.*.beat",
            "lease.*.urls",
            "lease.*.done",
            "tenant.*.submit",
            "tenant.*.get",
            "tenant.*.list",
            "tenant.*.cancel",
            "tenant.*.ask",
            "tenant.*.asked",
            "tenant.*.approvals",
            "events.*.*.terminal",
            "events.*.*.state"
        ]
    );
}

// A body sent along with the subject-appended form must not turn it into the body form, which

// would read the audit records, too (sequence 1 is one).

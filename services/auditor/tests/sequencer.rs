//! The loop against a real broker: killed in the middle, every sequence is in the log once; a
//! message that does not verify is recorded; a log that was changed stops the service.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{AckPolicy, pull};
use hotcell_auditor::config::{Config, Place, S3Config};
use hotcell_auditor::note::{Signer, VerifierKey};
use hotcell_auditor::record::Record;
use hotcell_auditor::store::{LogStore, folder};
use hotcell_auditor::verify::{Report, verify};
use hotcell_nats_config::testing::{NOW, TestServer};
use hotcell_nats_config::{InitOptions, Login, Replicas};
use hotcell_schemas::envelope::{Envelope, OpenError};
use hotcell_schemas::records::{AuditAct, Refusal};
use hotcell_schemas::{Role, TenantId};
use hotcell_stage::config::LogFormat;
use hotcell_stage::{Bus, NatsConfig, Outgoing, ServiceError, Shutdown, TelemetryConfig};
use hotcell_store::{AccessKeyConfig, Durability, Grant, Op, Store};
use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const ORIGIN: &str = "audit.hotcell.example/v1";
/// A busy machine with two cores.
const WAIT_MAX: Duration = Duration::from_secs(90);

struct Rig {
    server: TestServer,
    dir: tempfile::TempDir,
}

impl Rig {
    async fn start() -> Self {
        let options = InitOptions { now: NOW, ..InitOptions::default() };
        let server = TestServer::start(&options).await.unwrap();
        server.admin().await.unwrap().provision(Replicas::One, NOW).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let key = Signer::key_file(ORIGIN, &[9; 32]).unwrap();
        std::fs::write(dir.path().join("audit.key"), key).unwrap();
        let rig = Self { server, dir };
        rig.offer_again_soon().await;
        rig
    }

    /// The broker offers again after two seconds what a killed auditor held, not after a minute.
    async fn offer_again_soon(&self) {
        let client = self.server.connect(&Login::Service(Role::Provisioner)).await.unwrap();
        let stream = async_nats::jetstream::new(client).get_stream("JOBS").await.unwrap();
        let config = pull::Config {
            durable_name: Some("auditor".to_owned()),
            name: Some("auditor".to_owned()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: Duration::from_secs(2),
            max_deliver: -1,
            max_waiting: 512,
            max_ack_pending: 8192,
            ..pull::Config::default()
        };
        stream.create_consumer(config).await.unwrap();
    }

    fn nats(&self, role: Role) -> NatsConfig {
        self.server.config(&Login::Service(role)).unwrap()
    }

    fn log(&self) -> std::path::PathBuf {
        self.dir.path().join("log")
    }

    fn config(&self) -> Config {
        Config {
            nats: self.nats(Role::Auditor),
            telemetry: TelemetryConfig {
                log: "info".to_owned(),
                format: LogFormat::Text,
                otlp: String::new(),
            },
            origin: ORIGIN.to_owned(),
            signing_key: self.dir.path().join("audit.key"),
            older_keys: Vec::new(),
            batch_records: 16,
            batch_ms: 50,
            log: Place { folder: Some(self.log()), s3: None },
        }
    }

    async fn publish(&self, intake: &Bus, from: u64, count: u64) -> u64 {
        let tenant: TenantId = "acme".parse().unwrap();
        let mut last = 0;
        for number in from..from + count {
            let act = AuditAct::Refused {
                by: Role::Intake,
                what: Refusal::Credential,
                subject: "GET /v1/transcodes".to_owned(),
                reason: format!("number {number}"),
            };
            let out = Outgoing::audit(Some(&tenant), act, format!("test.{number}"));
            last = intake.publish(&out).await.unwrap().seq;
        }
        last
    }

    /// Waits until the log in the folder has at least `leaves` leaves.
    async fn await_size(&self, tasks: &mut JoinSet<Result<(), ServiceError>>, leaves: u64) {
        std::fs::create_dir_all(self.log()).unwrap();
        await_size(tasks, &LogStore::new(folder(&self.log()).unwrap(), ""), leaves).await;
    }
}

/// Waits until the published checkpoint has at least `leaves` leaves.
async fn await_size(tasks: &mut JoinSet<Result<(), ServiceError>>, log: &LogStore, leaves: u64) {
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        let size = size(log).await;
        if size >= leaves {
            return;
        }
        assert!(Instant::now() < deadline, "{size} of {leaves} leaves in time");
        if let Some(ended) = tasks.try_join_next() {
            panic!("the auditor ended: {ended:?}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn keys() -> [VerifierKey; 1] {
    [Signer::from_seed(ORIGIN, &[9; 32]).unwrap().verifier().clone()]
}

async fn size(log: &LogStore) -> u64 {
    log.checkpoint(&keys()).await.unwrap().map_or(0, |(head, _)| head.size)
}

async fn verified(log: &Path, check: impl FnMut(&Record) -> Result<(), OpenError>) -> Report {
    verify(&LogStore::new(folder(log).unwrap(), ""), &keys(), check).await.unwrap()
}

/// An auditor that was killed in the middle; the login of who published, and the last sequence then.
/// Nothing when it was too quick, or the test too slow: it was done.
async fn killed() -> Option<(Rig, Bus, u64)> {
    let rig = Rig::start().await;
    let intake = Bus::connect(Role::Intake, &rig.nats(Role::Intake)).await.unwrap();
    rig.publish(&intake, 0, 150).await;
    // Someone with the login but without the key.
    let forged = async_nats::jetstream::new(intake.client().clone());
    forged.publish("audit.acme.upload", "not signed".into()).await.unwrap().await.unwrap();
    let last = rig.publish(&intake, 150, 150).await;

    let mut tasks = JoinSet::new();
    tasks.spawn(hotcell_auditor::run(rig.config(), Shutdown::new()));
    rig.await_size(&mut tasks, 100).await;
    tasks.shutdown().await;
    let killed_at = size(&LogStore::new(folder(&rig.log()).unwrap(), "")).await;
    (killed_at < last).then_some((rig, intake, last))
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_every_sequence_is_in_the_log_once() {
    const TRIES: usize = 5;
    let mut found = None;
    for _ in 0..TRIES {
        found = killed().await;
        if found.is_some() {
            break;
        }
    }
    let (rig, intake, last) = found.expect("killed in the middle, not at the end");
    let mut tasks = JoinSet::new();

    // These are offered before the ones that the killed process held.
    let last = rig.publish(&intake, 300, 40).await.max(last);
    let shutdown = Shutdown::new();
    tasks.spawn(hotcell_auditor::run(rig.config(), shutdown.clone()));
    rig.await_size(&mut tasks, last).await;
    shutdown.begin();
    tasks.join_next().await.unwrap().unwrap().unwrap();

    let mut refused = Vec::new();
    let report = verified(&rig.log(), |record| {
        let header = |name: &'static str| record.header(name);
        let opened = Envelope::received(record.subject(), header, record.body());
        if let Err(error) = opened.and_then(|envelope| envelope.check_signature(intake.trust())) {
            refused.push((record.subject().to_owned(), error));
        }
        assert_eq!(record.header("traceparent"), None);
        Ok(())
    })
    .await;
    assert!(report.is_sound(true), "{:?} {:?}", report.faults, report.gaps);
    assert_eq!((report.records, report.head.size), (last, last));
    assert_eq!(report.head.last_seq(), Some(last));
    assert_eq!(refused, [("audit.acme.upload".to_owned(), OpenError::Header("Nats-Msg-Id"))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_changed_stops_the_service() {
    let rig = Rig::start().await;
    let intake = Bus::connect(Role::Intake, &rig.nats(Role::Intake)).await.unwrap();
    let last = rig.publish(&intake, 0, 20).await;
    let mut tasks = JoinSet::new();
    let shutdown = Shutdown::new();
    tasks.spawn(hotcell_auditor::run(rig.config(), shutdown.clone()));
    rig.await_size(&mut tasks, last).await;
    shutdown.begin();
    tasks.join_next().await.unwrap().unwrap().unwrap();

    let edge = std::fs::read_dir(rig.log().join("tile/0/000.p")).unwrap();
    let newest = edge.map(|entry| entry.unwrap().path()).max_by_key(|path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.parse::<u64>().unwrap()
    });
    let newest = newest.unwrap();
    let good = std::fs::read(&newest).unwrap();
    let mut bytes = good.clone();
    bytes[0] ^= 1;
    std::fs::write(&newest, bytes).unwrap();
    let error = hotcell_auditor::run(rig.config(), Shutdown::new()).await.unwrap_err();
    assert!(matches!(error, ServiceError::Refused(_)), "{error}");
    assert!(error.to_string().contains("does not verify"), "{error}");

    // A head without its log is refused, too: the history would begin anew.
    std::fs::write(&newest, good).unwrap();
    let away = rig.dir.path().join("away");
    std::fs::rename(rig.log(), &away).unwrap();
    let error = hotcell_auditor::run(rig.config(), Shutdown::new()).await.unwrap_err();
    assert!(matches!(error, ServiceError::Refused(_)), "{error}");
}

/// Our own S3 endpoint, with a key that can neither delete nor touch anything outside its prefix.
async fn store(dir: &Path, tasks: &mut JoinSet<()>) -> S3Config {
    let secret = dir.join("secret");
    std::fs::write(&secret, "a-secret-of-the-auditor-0123456789").unwrap();
    let allow = vec![Grant {
        ops: vec![Op::Get, Op::Put, Op::List],
        bucket: "hotcell-audit".to_owned(),
        prefix: "audit/".to_owned(),
    }];
    let key = AccessKeyConfig { id: "auditor".to_owned(), secret_file: secret.clone(), allow };
    let config = hotcell_store::Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        listen_file: None,
        tls: None,
        data_dir: dir.join("objects"),
        buckets: vec!["hotcell-audit".to_owned()],
        region: "us-east-1".to_owned(),
        access_keys: vec![key],
        presign_expires_secs_max: 60,
        durability: Durability::EachSecond,
        telemetry: TelemetryConfig {
            log: "info".to_owned(),
            format: LogFormat::Text,
            otlp: String::new(),
        },
    };
    let store = Store::bind(config).await.unwrap();
    let endpoint = format!("http://{}", store.local_addr());
    tasks.spawn(async move { store.run(CancellationToken::new()).await.unwrap() });
    S3Config {
        endpoint,
        region: "us-east-1".to_owned(),
        bucket: "hotcell-audit".to_owned(),
        prefix: "audit".to_owned(),
        access_key_id: "auditor".to_owned(),
        secret,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_in_a_bucket_is_written_and_verified_with_least_rights() {
    let rig = Rig::start().await;
    let mut stores = JoinSet::new();
    let s3 = store(rig.dir.path(), &mut stores).await;
    let objects = AmazonS3Builder::new()
        .with_endpoint(&s3.endpoint)
        .with_allow_http(true)
        .with_region(&s3.region)
        .with_bucket_name(&s3.bucket)
        .with_access_key_id(&s3.access_key_id)
        .with_secret_access_key(std::fs::read_to_string(&s3.secret).unwrap());
    hotcell_stage::blob::install_tls();
    let objects: Arc<dyn ObjectStore> = Arc::new(objects.build().unwrap());
    let log = LogStore::new(objects, &s3.prefix);
    let config = Config { log: Place { folder: None, s3: Some(s3) }, ..rig.config() };

    let intake = Bus::connect(Role::Intake, &rig.nats(Role::Intake)).await.unwrap();
    let mut last = 0;
    for round in 0..2 {
        // The second round opens the log that the first one wrote.
        last = rig.publish(&intake, round * 40, 40).await.max(last);
        let (mut tasks, shutdown) = (JoinSet::new(), Shutdown::new());
        tasks.spawn(hotcell_auditor::run(config.clone(), shutdown.clone()));
        await_size(&mut tasks, &log, last).await;
        shutdown.begin();
        tasks.join_next().await.unwrap().unwrap().unwrap();
    }
    let report = verify(&log, &keys(), |_| Ok::<_, OpenError>(())).await.unwrap();
    assert!(report.is_sound(true), "{:?} {:?}", report.faults, report.gaps);
    assert_eq!(report.records, last);
}

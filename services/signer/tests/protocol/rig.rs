//! Broker, store and signers of one test, and what the stream holds.

use crate::{
    job::{filter, image, plan, submitted},
    worker::Worker,
};
use async_nats::{Client, ConnectOptions, jetstream};
use hotcell_nats_config::{
    Admin, InitOptions, Login, Replicas, TenantSpec, jwt,
    testing::{NOW, TestServer},
};
use hotcell_schemas::{
    Envelope, EventKind, Job, JobId, Role, Trust,
    envelope::{Message, OpenError},
    records::{AuditAct, AuditRecord, Refusal},
    routes::work_consumer,
    tenancy::Priority,
};
use hotcell_signer::{Config, config::DEFAULTS};
use hotcell_stage::{Bus, NatsConfig, Outgoing, ServiceError, Shutdown, config};
use hotcell_store::{AccessKeyConfig, Durability, Grant, Op, Store};
use nkeys::KeyPair;
use serde_json::json;
use std::{fs, future::Future, path::PathBuf, time::Duration};
use tempfile::TempDir;
use tokio::{task::JoinSet, time::Instant};

/// Nothing in these tests takes this long unless it never happens.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

const SECRET: &str = "0123456789abcdef0123456789abcdef";
pub(crate) const BUCKET: &str = "hotcell";

/// Workers with their pools.
const WORKERS: [(&str, &[&str]); 6] = [
    ("w1", &["cpu"]),
    ("w2", &["cpu"]),
    ("w3", &["cpu"]),
    ("w4", &["cpu"]),
    ("g1", &["gpu"]),
    ("b1", &["cpu", "gpu"]),
];

pub(crate) struct Rig {
    server: TestServer,
    pub(crate) admin: Admin,
    dir: TempDir,
    store: String,
    _tasks: JoinSet<()>,
    signers: JoinSet<Result<(), ServiceError>>,
    shutdown: Shutdown,
    root: Client,
    pub(crate) intake: Bus,
    pub(crate) validator: Bus,
    trust: Trust,
}

/// Measures one thing up to three times, of which one must be good. What hangs on milliseconds, such
/// as whose answer came first, a machine that stands still decides otherwise; not each time.
pub(crate) async fn once<F: Future<Output = Result<(), String>>>(mut measure: impl FnMut() -> F) {
    let mut bad = Vec::new();
    for _ in 0..3 {
        match measure().await {
            Ok(()) => return,
            Err(what) => bad.push(what),
        }
    }
    panic!("{bad:?}");
}

/// Polls until `look` finds something.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(mut look: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "it did not happen in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Rig {
    /// A broker with tenants `acme` and `bolt` in both pools, a store, and one signer.
    pub(crate) async fn start() -> Self {
        let mut rig = Self::without_signer().await;
        rig.tenant("acme", 16).await;
        rig.tenant("bolt", 16).await;
        rig.signer();
        rig
    }

    pub(crate) async fn without_signer() -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let slugs = |pools: &[&str]| pools.iter().map(|pool| pool.parse().unwrap()).collect();
        let workers = WORKERS.iter().map(|(name, pools)| (name.parse().unwrap(), slugs(pools)));
        let options = InitOptions { now: NOW, workers: workers.collect(), tenants: Vec::new() };
        let server = TestServer::start(&options).await.unwrap();
        let admin = server.admin().await.unwrap();
        admin.provision(Replicas::One, NOW).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (mut tasks, shutdown) = (JoinSet::new(), Shutdown::new());
        let store = store(&dir).await;
        let address = format!("http://{}", store.local_addr());
        let stop = Shutdown::new().token();
        tasks.spawn(async move { store.run(stop).await.unwrap() });
        let bus = async |role| Bus::connect(role, &nats(&server, &Login::Service(role))).await;
        Self {
            intake: bus(Role::Intake).await.unwrap(),
            validator: bus(Role::Validator).await.unwrap(),
            root: root(&server).await,
            trust: admin.installation().trust().unwrap(),
            server,
            admin,
            dir,
            store: address,
            _tasks: tasks,
            signers: JoinSet::new(),
            shutdown,
        }
    }

    pub(crate) async fn tenant(&self, tenant: &str, concurrency: u32) {
        let pools = ["cpu", "gpu"].map(|pool| pool.parse().unwrap()).to_vec();
        let raw_arguments = true;
        let spec = TenantSpec {
            concurrency,
            raw_arguments,
            ..TenantSpec::new(tenant.parse().unwrap(), pools)
        };
        self.admin.add_tenant(&spec, &"app".parse().unwrap(), NOW).await.unwrap();
    }

    /// Starts one more signer.
    pub(crate) fn signer(&mut self) {
        self.signer_with("");
    }

    /// The same with lines more at the top of its configuration.
    pub(crate) fn signer_with(&mut self, more: &str) {
        let path = |name: &str, text: &str| {
            let path = self.dir.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let lease = path("lease.key", &"ab".repeat(32));
        let secret = path("storage.key", SECRET);
        let nats = nats(&self.server, &Login::Service(Role::Signer));
        let text = format!(
            "{more}lease_key = {lease:?}\nimages = [\"{}\"]\n[nats]\nurl = \"{}\"\ncreds = {:?}\n\
             trust = {:?}\n[storage]\nendpoint = \"{}\"\nbucket = \"{BUCKET}\"\n\
             access_key_id = \"signer\"\nsecret = {secret:?}\n",
            image(),
            nats.url,
            nats.creds,
            nats.trust,
            self.store,
        );
        let config: Config = config::load(&path("signer.toml", &text), DEFAULTS).unwrap();
        let shutdown = self.shutdown.clone();
        self.signers.spawn(async move {
            // A signer that did not start says so, or a test would only wait in vain.
            hotcell_signer::run(config, shutdown).await.unwrap();
            Ok(())
        });
    }

    /// Stops every signer that was started; none of them answers any more.
    pub(crate) async fn stop_signers(&mut self) {
        std::mem::take(&mut self.shutdown).begin();
        while let Some(ended) = self.signers.join_next().await {
            ended.unwrap().unwrap();
        }
    }

    pub(crate) async fn worker(&self, name: &str, pool: &str) -> Worker {
        let config = nats(&self.server, &self.login(name));
        let bus = Bus::connect(Role::Encoder, &config).await.unwrap();
        Worker::new(bus, name, pool)
    }

    /// The store's address.
    pub(crate) fn store(&self) -> &str {
        &self.store
    }

    /// The store's objects on disk.
    pub(crate) fn stored(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// The login of a worker.
    pub(crate) fn login(&self, worker: &str) -> Login {
        let (_, pools) = WORKERS.iter().find(|(name, _)| *name == worker).unwrap();
        let pools = pools.iter().map(|pool| pool.parse().unwrap()).collect();
        Login::Worker { name: worker.parse().unwrap(), pools }
    }

    /// The key that signs for a login.
    pub(crate) fn key(&self, login: &Login) -> KeyPair {
        self.server.creds(login).unwrap().key
    }

    pub(crate) async fn service(&self, role: Role) -> Bus {
        Bus::connect(role, &nats(&self.server, &Login::Service(role))).await.unwrap()
    }

    /// Publishes a job's first event.
    pub(crate) async fn submit(&self, tenant: &str, pool: &str) -> (Job, u64) {
        let job = submitted(tenant, pool);
        let published = self.intake.publish(&Outgoing::job(job.clone(), 0)).await.unwrap();
        (job, published.seq)
    }

    /// Publishes a job that is ready for a worker.
    pub(crate) async fn validated(&self, tenant: &str, pool: &str) -> Job {
        let (mut job, seq) = self.submit(tenant, pool).await;
        job.plan = Some(plan());
        let job = job.moved(EventKind::Validated, hotcell_stage::clock::now());
        self.validator.publish(&Outgoing::job(job.clone(), seq)).await.unwrap();
        job
    }

    /// The job's last event.
    pub(crate) async fn state(&self, job: &Job) -> Job {
        let stored = self.intake.job(&job.tenant, &job.id).await.unwrap().unwrap();
        stored.message.into_inner()
    }

    /// Every message of the stream, in order.
    pub(crate) async fn messages(&self) -> Vec<jetstream::message::StreamMessage> {
        let stream = jetstream::new(self.root.clone()).get_stream("JOBS").await.unwrap();
        let last = stream.cached_info().state.last_sequence;
        let mut messages = Vec::new();
        for seq in 1..=last {
            messages.push(stream.direct_get(seq).await.unwrap());
        }
        messages
    }

    /// Every message of type `T` whose subject begins with `start`, signature checked; without
    /// those that are about another job than their subject names.
    async fn opened<T: Message>(&self, start: &str) -> Vec<(String, T)> {
        let messages = self.messages().await.into_iter();
        messages
            .filter(|message| message.subject.starts_with(start))
            .filter_map(|message| {
                let header = |name: &'static str| message.headers.get(name).map(|v| v.as_str());
                let envelope =
                    Envelope::received(&message.subject, header, &message.payload).unwrap();
                match envelope.open::<T>(&self.trust) {
                    Err(OpenError::OtherSubject) => None,
                    opened => Some((message.subject.to_string(), opened.unwrap().into_inner())),
                }
            })
            .collect()
    }

    /// The job's events, oldest first.
    pub(crate) async fn history(&self, job: &Job) -> Vec<Job> {
        let filter = filter(job);
        let events = self.opened::<Job>(filter.trim_end_matches('>')).await;
        events.into_iter().map(|(_, job)| job).collect()
    }

    /// Every job event as job and state, oldest first.
    pub(crate) async fn job_states(&self) -> Vec<(JobId, EventKind)> {
        let events = self.opened::<Job>("job.").await.into_iter();
        events.map(|(_, job)| (job.id, job.state)).collect()
    }

    /// The job's states, oldest first.
    pub(crate) async fn states(&self, job: &Job) -> Vec<EventKind> {
        self.history(job).await.iter().map(|job| job.state).collect()
    }

    pub(crate) async fn audit(&self) -> Vec<AuditAct> {
        let records = self.opened::<AuditRecord>("audit.").await;
        records.into_iter().map(|(_, record)| record.act).collect()
    }

    /// Refusals recorded by the signer, as kind and reason.
    pub(crate) async fn refusals(&self) -> Vec<(Refusal, String)> {
        let acts = self.audit().await.into_iter();
        acts.filter_map(|act| match act {
            AuditAct::Refused { by: Role::Signer, what, reason, .. } => Some((what, reason)),
            _ => None,
        })
        .collect()
    }

    /// URLs that are in the record: those of the assignments and those of the audit log.
    pub(crate) async fn grants(&self) -> usize {
        let assigned = self.opened::<Job>("job.").await.into_iter();
        let assigned = assigned.filter(|(_, job)| job.state == EventKind::Assigned);
        let in_jobs: usize =
            assigned.map(|(_, job)| job.attempts.last().unwrap().grants.len()).sum();
        let acts = self.audit().await.into_iter();
        let in_log: usize = acts
            .map(|act| match act {
                AuditAct::Granted { grants, .. } => grants.len(),
                _ => 0,
            })
            .sum();
        in_jobs + in_log
    }

    /// Deliveries of a tenant's work that are out.
    pub(crate) async fn ack_pending(&self, tenant: &str, pool: &str) -> usize {
        let mut consumer = self.work(tenant, pool).await;
        consumer.info().await.unwrap().num_ack_pending
    }

    /// How often a tenant's work was delivered, repeats included.
    pub(crate) async fn deliveries(&self, tenant: &str, pool: &str) -> u64 {
        let mut consumer = self.work(tenant, pool).await;
        consumer.info().await.unwrap().delivered.consumer_sequence
    }

    async fn work(&self, tenant: &str, pool: &str) -> jetstream::consumer::PullConsumer {
        let name =
            work_consumer(&pool.parse().unwrap(), &tenant.parse().unwrap(), Priority::Normal);
        let context = jetstream::new(self.root.clone());
        context.get_consumer_from_stream(name, "JOBS").await.unwrap()
    }

    /// Makes a durable consumer anew, so that it begins with the stream's first message; how many
    /// messages the old one had delivered.
    pub(crate) async fn deliver_again(&self, durable: &str) -> u64 {
        let context = jetstream::new(self.root.clone());
        let stream = context.get_stream("JOBS").await.unwrap();
        let mut consumer: jetstream::consumer::PullConsumer =
            stream.get_consumer(durable).await.unwrap();
        let seen = consumer.info().await.unwrap().delivered.consumer_sequence;
        let config = consumer.cached_info().config.clone();
        stream.delete_consumer(durable).await.unwrap();
        context.create_consumer_on_stream(config, "JOBS").await.unwrap();
        seen
    }

    /// How many messages a durable consumer has delivered.
    pub(crate) async fn seen(&self, durable: &str) -> u64 {
        let context = jetstream::new(self.root.clone());
        let mut consumer: jetstream::consumer::PullConsumer =
            context.get_consumer_from_stream(durable, "JOBS").await.unwrap();
        consumer.info().await.unwrap().delivered.consumer_sequence
    }

    /// Puts a record that is none among those of the tenants: from here on nobody can list them.
    pub(crate) async fn unlist_tenants(&self) {
        let context = jetstream::new(self.root.clone());
        let sent = context.publish("$KV.tenants.broken", "no record".into()).await;
        sent.unwrap().await.unwrap();
    }

    /// Makes the broker deliver a tenant's work again after `wait` without an ack.
    pub(crate) async fn impatient(&self, tenant: &str, pool: &str, wait: Duration) {
        let consumer = self.work(tenant, pool).await;
        let mut config = consumer.cached_info().config.clone();
        config.ack_wait = wait;
        let context = jetstream::new(self.root.clone());
        context.create_consumer_on_stream(config, "JOBS").await.unwrap();
    }
}

fn nats(server: &TestServer, login: &Login) -> NatsConfig {
    server.config(login).unwrap()
}

async fn store(dir: &TempDir) -> Store {
    let secret_file: PathBuf = dir.path().join("store.secret");
    fs::write(&secret_file, SECRET).unwrap();
    let ops = vec![Op::Get, Op::Put, Op::Delete, Op::List];
    let grant = Grant { ops, bucket: BUCKET.to_owned(), prefix: String::new() };
    let config = hotcell_store::Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        listen_file: None,
        data_dir: dir.path().join("store"),
        tls: None,
        buckets: vec![BUCKET.to_owned()],
        region: "us-east-1".to_owned(),
        access_keys: vec![AccessKeyConfig { id: "signer".into(), secret_file, allow: vec![grant] }],
        presign_expires_secs_max: 3600,
        durability: Durability::EachSecond,
        telemetry: hotcell_stage::TelemetryConfig {
            log: "info".to_owned(),
            format: config::LogFormat::Text,
            otlp: String::new(),
        },
    };
    Store::bind(config).await.unwrap()
}

/// A login with every right in PIPELINE: what only the holder of the operator's keys can make.
async fn root(server: &TestServer) -> Client {
    let installation = server.installation().unwrap();
    let keys = installation.keys();
    let user = KeyPair::new_user();
    let body = json!({"type": "user", "version": 2, "issuer_account": keys.pipeline.public_key(),
        "pub": {"allow": [">"]}, "sub": {"allow": [">"]}, "subs": -1, "data": -1, "payload": -1});
    let jwt = jwt::encode(&keys.pipeline_grants, NOW, &user.public_key(), "root", &body).unwrap();
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        user.seed().unwrap()
    );
    ConnectOptions::with_credentials(&text).unwrap().connect(server.url()).await.unwrap()
}

//! The whole service against a real broker, as intake asks it.

use super::job::submitted;
use hotcell_nats_config::{
    InitOptions, Login, Replicas, TenantSpec,
    testing::{NOW, TestServer},
};
use hotcell_schemas::{
    EventKind, Role, Subject, TenantId,
    hook::{
        DeliveryRecord, DeliveryState, HookAsk, HookAskReply, HookReply, HookRequest, HookVerb,
    },
    records::{AuditAct, AuditRecord},
    request::{WebhookCreated, WebhookEvent, WebhookRequest},
};
use hotcell_stage::{
    Bus, NatsConfig, Outgoing, ServiceError, Shutdown, TelemetryConfig, clock,
    config::LogFormat,
    feed::{Feed, envelope},
};
use hotcell_webhook::Config;
use std::{
    future::Future,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// A busy machine with two cores.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(90);

/// An answer comes within this long, or is lost: what is asked again may be answered otherwise. That
/// nobody serves yet, the broker says at once.
const ANSWER_MAX: Duration = Duration::from_secs(45);

pub(crate) struct Rig {
    pub(crate) server: TestServer,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) intake: Bus,
    pub(crate) retry_secs: Vec<u64>,
    pub(crate) shutdown: Shutdown,
    pub(crate) tasks: JoinSet<Result<(), ServiceError>>,
}

pub(crate) fn nats(server: &TestServer, role: Role) -> NatsConfig {
    server.config(&Login::Service(role)).unwrap()
}

pub(crate) fn tenant() -> TenantId {
    "acme".parse().unwrap()
}

pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let deadline = Instant::now() + WAIT_MAX;
    while !condition().await {
        assert!(Instant::now() < deadline, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Rig {
    pub(crate) async fn start(retry_secs: &[u64]) -> Self {
        let options = InitOptions { now: NOW, ..InitOptions::default() };
        let server = TestServer::start(&options).await.unwrap();
        let admin = server.admin().await.unwrap();
        admin.provision(Replicas::One, NOW).await.unwrap();
        let spec = TenantSpec::new(tenant(), vec!["cpu".parse().unwrap()]);
        admin.add_tenant(&spec, &"app".parse().unwrap(), NOW).await.unwrap();
        let intake = Bus::connect(Role::Intake, &nats(&server, Role::Intake)).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("key"), "07".repeat(32)).unwrap();
        let (retry_secs, shutdown) = (retry_secs.to_vec(), Shutdown::new());
        let mut rig = Self { server, dir, intake, retry_secs, shutdown, tasks: JoinSet::new() };
        rig.run();
        rig
    }

    pub(crate) fn run(&mut self) {
        self.shutdown = Shutdown::new();
        let config = Config {
            nats: nats(&self.server, Role::Webhook),
            telemetry: TelemetryConfig {
                log: "info".to_owned(),
                format: LogFormat::Text,
                otlp: String::new(),
            },
            secrets_key: self.dir.path().join("key"),
            retry_secs: self.retry_secs.clone(),
            attempts_max: 64,
            tenant_attempts_max: 32,
            endpoint_attempts_max: 4,
            events_max: 16,
            allow_loopback: true,
        };
        self.tasks.spawn(hotcell_webhook::run(config, self.shutdown.clone()));
    }

    pub(crate) async fn stop(&mut self) {
        self.shutdown.begin();
        self.tasks.join_next().await.unwrap().unwrap().unwrap();
    }

    pub(crate) async fn ask(&self, url: &str, events: &[WebhookEvent]) -> HookReply {
        let request = WebhookRequest { url: url.to_owned(), events: events.to_vec() };
        let ask = HookRequest { tenant: tenant(), request };
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            // The service may still be starting.
            let subject = Subject::hooks_create();
            match self.intake.ask(subject, &ask, ANSWER_MAX).await {
                Ok(reply) => return reply.into_inner(),
                Err(error) => assert!(Instant::now() < deadline, "{error:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn create(&self, url: &str) -> WebhookCreated {
        match self.ask(url, &[]).await {
            HookReply::Created { created } => created,
            HookReply::OverQuota { limit, used } => panic!("{used} of {limit}"),
            HookReply::Refused { field, rule } => panic!("{field} {rule}"),
        }
    }

    /// A job that the tenant cancels: the two events that intake itself may publish.
    pub(crate) async fn end_job(&self, number: u8) {
        let job = submitted(number);
        let seq = self.intake.publish(&Outgoing::job(job.clone(), 0)).await.unwrap().seq;
        let job = job.moved(EventKind::Cancelled, clock::now());
        self.intake.publish(&Outgoing::job(job, seq)).await.unwrap();
    }

    /// The broker as the webhook service sees it.
    pub(crate) async fn bus(&self) -> Bus {
        Bus::connect(Role::Webhook, &nats(&self.server, Role::Webhook)).await.unwrap()
    }

    pub(crate) async fn delivery(&self, bus: &Bus, id: &str) -> Option<DeliveryRecord> {
        bus.bucket("deliveries").get(id).await.unwrap().map(|entry| entry.value)
    }

    /// The next record of a delivery's end, as the auditor gets it.
    pub(crate) async fn audited_end(&self) -> (DeliveryState, u32, Option<u16>) {
        let last = self.acts_to_end().await.pop();
        let Some(AuditAct::Delivered { state, attempts, status, .. }) = last else {
            panic!("{last:?}");
        };
        (state, attempts, status)
    }

    /// What the auditor gets, up to the next delivery's end.
    pub(crate) async fn acts_to_end(&self) -> Vec<AuditAct> {
        let bus = Bus::connect(Role::Auditor, &nats(&self.server, Role::Auditor)).await.unwrap();
        // One at a time: what is pulled and not looked at would be somebody else's for a minute.
        let (mut feed, open) = (Feed::new(&bus, "auditor", 1), Shutdown::new());
        let found = async {
            let mut acts = Vec::new();
            loop {
                let message = feed.next(&open).await.unwrap().unwrap();
                // The broker has it before the next look, which is another connection's.
                message.double_ack().await.unwrap();
                let sealed = envelope(&message).unwrap();
                let Ok(record) = sealed.open::<AuditRecord>(bus.trust()) else { continue };
                acts.push(record.into_inner().act);
                if let Some(AuditAct::Delivered { .. }) = acts.last() {
                    return acts;
                }
            }
        };
        let acts = tokio::time::timeout(WAIT_MAX, found).await.unwrap();
        feed.give_back().await;
        acts
    }

    /// Asks about what there is, as intake does, for `tenant`.
    pub(crate) async fn hook(&self, tenant: &TenantId, verb: HookVerb) -> HookAskReply {
        let ask = HookAsk { tenant: tenant.clone(), verb };
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            // The service may still be starting.
            match self.intake.ask(Subject::hooks_ask(), &ask, ANSWER_MAX).await {
                Ok(reply) => return reply.into_inner(),
                Err(error) => assert!(Instant::now() < deadline, "{error:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

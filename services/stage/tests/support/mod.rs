//! A broker and the buses of two roles.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

use hotcell_nats_config::{
    InitOptions, Login, Replicas,
    testing::{NOW, TestServer},
};
use hotcell_schemas::{
    EventKind, Job, JobId, KeyId, Role, UnixMs,
    job::{Actor, Stamp},
    request::TranscodeRequest,
};
use hotcell_stage::{Bus, NatsConfig, Outgoing, PublishError, clock};
use std::time::Duration;

pub(crate) struct Rig {
    pub(crate) server: TestServer,
    pub(crate) intake: Bus,
    pub(crate) validator: Bus,
}

impl Rig {
    pub(crate) async fn start() -> Self {
        let options = InitOptions { now: NOW, ..InitOptions::default() };
        let server = TestServer::start(&options).await.unwrap();
        server.admin().await.unwrap().provision(Replicas::One, NOW).await.unwrap();
        let bus = async |role| Bus::connect(role, &nats(&server, role)).await.unwrap();
        Self { intake: bus(Role::Intake).await, validator: bus(Role::Validator).await, server }
    }

    /// Publishes a job's first event, however long the broker takes to be back.
    pub(crate) async fn submit(&self, job: &Job) -> u64 {
        loop {
            match self.intake.publish(&Outgoing::job(job.clone(), 0)).await {
                Ok(published) => return published.seq,
                Err(PublishError::Unacknowledged(_)) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

pub(crate) fn nats(server: &TestServer, role: Role) -> NatsConfig {
    let installation = server.installation().unwrap();
    NatsConfig {
        tls: None,
        url: server.url(),
        creds: installation.creds_path(&Login::Service(role)),
        trust: installation.trust_path(),
    }
}

pub(crate) fn submitted() -> Job {
    let at = UnixMs(clock::now().0);
    Job {
        id: JobId::new(at.0, clock::random()),
        tenant: "acme".parse().unwrap(),
        state: EventKind::Submitted,
        actor: Actor::ApiKey { id: KeyId::new(1, [1; 10]) },
        authority: hotcell_schemas::identity::Authority::default(),
        decisions: Vec::new(),
        workflow: None,
        request: TranscodeRequest {
            inputs: Vec::new(),
            output_format: None,
            preset: None,
            outputs: Vec::new(),
            workflow: None,
            priority: hotcell_schemas::tenancy::Priority::Normal,
            ..TranscodeRequest::default()
        },
        pool: "cpu".parse().unwrap(),
        inputs: Vec::new(),
        plan: None,
        attempts: Vec::new(),
        outputs: Vec::new(),
        failure: None,
        stamps: vec![Stamp { event: EventKind::Submitted, at }],
    }
}

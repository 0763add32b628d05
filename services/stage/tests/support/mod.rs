//! A broker and the buses of two roles.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

use hotcell_nats_config::{
    InitOptions, Login, Replicas,
    testing::{NOW, TestServer, job},
};
use hotcell_schemas::{EventKind, Job, JobId, Role};
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
    server.config(&Login::Service(role)).unwrap()
}

pub(crate) fn submitted() -> Job {
    let at = clock::now();
    job("acme", JobId::new(at.0, clock::random())).moved(EventKind::Submitted, at)
}

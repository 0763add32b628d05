//! What the consume loop does not believe is recorded, each message for itself.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use futures::TryStreamExt as _;
use hotcell_nats_config::Login;
use hotcell_schemas::{Job, Role};
use hotcell_stage::{Delivered, Halt, Outgoing, Shutdown, Stage, run};
use std::time::Duration;
use support::Rig;
use tokio::{task::JoinSet, time::Instant};

struct Never;

impl Stage for Never {
    type Input = Job;
    async fn handle(&self, _: Delivered<Job>) -> Result<Vec<Outgoing>, Halt> {
        panic!("an unsigned message reached a handler");
    }
}

/// The same bytes twice are two attacks: both are in the record, and neither comes back.
#[tokio::test(flavor = "multi_thread")]
async fn two_refusals_of_the_same_bytes_are_two_records() {
    let rig = Rig::start().await;
    // Intake's login without its signature: a stolen connection.
    let thief = rig.server.connect(&Login::Service(Role::Intake)).await.unwrap();
    let id = |n: u8| format!("{n:032x}");
    for n in 0..3 {
        let subject = format!("job.acme.{}.submitted", id(n));
        #[expect(clippy::disallowed_methods, reason = "what an attacker does")]
        thief.publish(subject, "forged".into()).await.unwrap();
    }
    thief.flush().await.unwrap();
    let (shutdown, mut task) = (Shutdown::new(), JoinSet::new());
    let (bus, stop) = (rig.validator.clone(), shutdown.clone());
    task.spawn(async move { run::run(&bus, "validator", 4, Never, stop).await });
    let deadline = Instant::now() + Duration::from_secs(60);
    let admin = rig.server.connect(&Login::Service(Role::Provisioner)).await.unwrap();
    let context = async_nats::jetstream::new(admin);
    loop {
        let stream = context.get_stream("JOBS").await.unwrap();
        let info = stream.info_with_subjects("audit.*.refused").await.unwrap();
        let mut refused = 0;
        let mut subjects = info;
        while let Some((_, count)) = subjects.try_next().await.unwrap() {
            refused += count;
        }
        if refused == 3 {
            break;
        }
        assert!(Instant::now() < deadline, "{refused} of 3 refusals are in the record");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    shutdown.begin();
    task.join_next().await.unwrap().unwrap().unwrap();
}

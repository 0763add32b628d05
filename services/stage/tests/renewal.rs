//! Logins that end (IAM-02) and are renewed by somebody else (IAM-03), against a real nats-server:
//! with lives of seconds, which nobody can ask for but a test.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use hotcell_nats_config::{
    Installation, Life, Login, creds,
    testing::{TestServer, short_life},
};
use hotcell_schemas::{Job, JobId, Role};
use hotcell_stage::{Bus, Delivered, Halt, Outgoing, Shutdown, Stage, clock, run};
use std::{collections::BTreeSet, path::Path, time::Duration};
use support::{Rig, nats, submitted};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

const SECS: u64 = 3;
const DEADLINE: Duration = Duration::from_secs(90);

fn life() -> Life {
    short_life(SECS)
}

/// What an agent has: the file, and the scoped key of that login's role.
fn renew(installation: &Installation, role: Role) {
    let path = installation.creds_path(&Login::Service(role));
    let scope = &installation.keys().services[&role];
    creds::renew(&path, scope, life(), clock::now()).unwrap();
}

/// Renews both logins at two thirds of their lives, as an agent does, until `stop`.
async fn agent(installation: Installation, stop: Shutdown) {
    while !stop.has_begun() {
        for role in [Role::Intake, Role::Validator] {
            let path = installation.creds_path(&Login::Service(role));
            let claims = creds::read(&path).unwrap().claims;
            if creds::is_due(&claims, life(), clock::now()) {
                renew(&installation, role);
            }
        }
        stop.sleep(Duration::from_millis(200)).await;
    }
}

/// Connects with a fresh login, however long the machine stands still: the login may have ended
/// before it was shown.
async fn connected(rig: &Rig, installation: &Installation, role: Role) -> Bus {
    let until = Instant::now() + DEADLINE;
    loop {
        renew(installation, role);
        match Bus::connect(role, &nats(&rig.server, role)).await {
            Ok(bus) => return bus,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
    }
}

struct Passing(mpsc::Sender<JobId>);

impl Stage for Passing {
    type Input = Job;
    async fn handle(&self, input: Delivered<Job>) -> Result<Vec<Outgoing>, Halt> {
        // Long enough that an end of the login falls into the work of several.
        sleep(Duration::from_millis(400)).await;
        self.0.send(input.message.get().id.clone()).await.unwrap();
        Ok(Vec::new())
    }
}

fn connects(bus: &Bus) -> u64 {
    bus.client().statistics().connects.load(std::sync::atomic::Ordering::Relaxed)
}

async fn reaches(what: &str, is_so: impl Fn() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < until, "{what}");
        sleep(Duration::from_millis(20)).await;
    }
}

// IAM-02, IAM-03: work goes on over two ends of the login, and nothing of it is lost.
#[tokio::test(flavor = "multi_thread")]
async fn work_goes_on_while_its_logins_end_and_are_renewed() {
    let rig = Rig::start().await;
    let installation = rig.server.installation().unwrap();
    let (stop, mut tasks) = (Shutdown::new(), JoinSet::new());
    let intake = connected(&rig, &installation, Role::Intake).await;
    let validator = connected(&rig, &installation, Role::Validator).await;
    tasks.spawn(agent(installation, stop.clone()));
    let (send, mut seen) = mpsc::channel(256);
    let (bus, shutdown) = (validator.clone(), stop.clone());
    tasks.spawn(async move {
        run::run(&bus, "validator", 4, Passing(send), shutdown).await.unwrap();
    });

    let (mut sent, mut done) = (BTreeSet::new(), BTreeSet::new());
    let begun = Instant::now();
    // A slow machine sends few between two ends of its logins, so it goes on for longer.
    while connects(&validator) < 3 || connects(&intake) < 3 || sent.len() <= 8 {
        assert!(begun.elapsed() < DEADLINE, "the logins do not end");
        let job = submitted();
        if intake.publish(&Outgoing::job(job.clone(), 0)).await.is_ok() {
            sent.insert(job.id);
        }
        sleep(Duration::from_millis(100)).await;
    }
    while done.len() < sent.len() {
        let id = timeout(DEADLINE, seen.recv()).await.expect("work is lost").unwrap();
        if sent.contains(&id) {
            done.insert(id);
        }
    }
    println!("{} jobs over {:?}", sent.len(), begun.elapsed());
    stop.begin();
    while tasks.join_next().await.is_some() {}
}

fn refusals(server: &TestServer) -> usize {
    let log = std::fs::read_to_string(server.dir().join("nats.log")).unwrap();
    log.lines().filter(|line| line.contains("authentication error")).count()
}

// What the renewal is for: without it the login ends, tries go on without a storm, and the first
// one after a renewal succeeds.
#[tokio::test(flavor = "multi_thread")]
async fn an_ended_login_is_out_until_it_is_renewed() {
    let rig = Rig::start().await;
    let installation = rig.server.installation().unwrap();
    let bus = connected(&rig, &installation, Role::Intake).await;
    reaches("the login does not end", || !bus.is_connected()).await;
    reaches("nobody tries again", || refusals(&rig.server) >= 2).await;
    let (before, since) = (refusals(&rig.server), Instant::now());
    sleep(Duration::from_secs(2)).await;
    let (tries, secs) = (refusals(&rig.server) - before, since.elapsed().as_secs_f64());
    let most = 6.0 * secs;
    assert!(!bus.is_connected() && (tries as f64) < most, "{tries} tries in {secs} s");
    let again = Bus::connect(Role::Intake, &nats(&rig.server, Role::Intake)).await;
    assert!(again.is_err(), "an ended login is taken");

    renew(&installation, Role::Intake);
    reaches("a renewed login is not taken", || bus.is_connected()).await;
    bus.publish(&Outgoing::job(submitted(), 0)).await.unwrap();
}

// Messages are signed by the key that the process started with: another's file is not ours.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_another_key_is_not_used() {
    let rig = Rig::start().await;
    let installation = rig.server.installation().unwrap();
    let path = installation.creds_path(&Login::Service(Role::Intake));
    let bus = connected(&rig, &installation, Role::Intake).await;
    let own = std::fs::read(&path).unwrap();
    std::fs::copy(installation.creds_path(&Login::Service(Role::Validator)), &path).unwrap();
    reaches("the login does not end", || !bus.is_connected()).await;
    sleep(Duration::from_secs(1)).await;
    assert!(!bus.is_connected());
    std::fs::write(Path::new(&path), own).unwrap();
    renew(&installation, Role::Intake);
    reaches("its own file is not taken", || bus.is_connected()).await;
}

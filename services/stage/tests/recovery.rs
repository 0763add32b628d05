//! The consume loop when the broker is killed and comes back, and when its process is stopped:
//! against a real nats-server.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use hotcell_schemas::Job;
use hotcell_stage::{Delivered, Halt, Outgoing, Shutdown, Stage, run};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use support::{Rig, submitted};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout},
};

/// Counts what it is given.
struct Counting {
    seen: mpsc::Sender<Job>,
    /// How long it takes over the first message.
    first: Duration,
    count: Arc<AtomicUsize>,
}

impl Stage for Counting {
    type Input = Job;
    async fn handle(&self, input: Delivered<Job>) -> Result<Vec<Outgoing>, Halt> {
        if self.count.fetch_add(1, Ordering::SeqCst) == 0 {
            tokio::time::sleep(self.first).await;
        }
        self.seen.send(input.message.get().clone()).await.unwrap();
        Ok(Vec::new())
    }
}

/// Messages that a dead pull holds come back after its 20 s, those of a dead process after 30.
const SOON: Duration = Duration::from_secs(15);

/// Nothing that is waited for takes longer, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(90);

struct Running {
    seen: mpsc::Receiver<Job>,
    shutdown: Shutdown,
    task: JoinSet<()>,
}

fn start(rig: &Rig, concurrency: usize, first: Duration) -> Running {
    let (send, seen) = mpsc::channel(64);
    let (shutdown, mut task) = (Shutdown::new(), JoinSet::new());
    let stage = Counting { seen: send, first, count: Arc::default() };
    let (bus, stop) = (rig.validator.clone(), shutdown.clone());
    task.spawn(async move { run::run(&bus, "validator", concurrency, stage, stop).await.unwrap() });
    Running { seen, shutdown, task }
}

/// A killed broker is not the end of a pull: work flows again within seconds of its return, also
/// when the pull fell silent in between.
#[tokio::test(flavor = "multi_thread")]
async fn work_flows_within_seconds_after_the_broker_came_back() {
    let mut rig = Rig::start().await;
    let mut running = start(&rig, 4, Duration::ZERO);
    rig.submit(&submitted()).await;
    timeout(DEADLINE, running.seen.recv()).await.unwrap().unwrap();
    for down_ms in [0, 1500, 7000] {
        rig.server.kill().unwrap();
        tokio::time::sleep(Duration::from_millis(down_ms)).await;
        rig.server.start_again().await.unwrap();
        let back = Instant::now();
        for _ in 0..6 {
            rig.submit(&submitted()).await;
        }
        for _ in 0..6 {
            timeout(DEADLINE, running.seen.recv()).await.unwrap().unwrap();
        }
        println!("down {down_ms} ms: flowed again after {:?}", back.elapsed());
        assert!(back.elapsed() < SOON, "{:?}", back.elapsed());
    }
    running.shutdown.begin();
    running.task.join_next().await.unwrap().unwrap();
}

/// What a stopped process had pulled but not begun is another's at once, not after the ack wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_process_gives_back_what_it_has_not_begun() {
    let rig = Rig::start().await;
    for _ in 0..8 {
        rig.submit(&submitted()).await;
    }
    let mut first = start(&rig, 2, Duration::from_millis(1500));
    timeout(DEADLINE, first.seen.recv()).await.unwrap().unwrap();
    first.shutdown.begin();
    let mut done = 1;
    first.task.join_next().await.unwrap().unwrap();
    while first.seen.try_recv().is_ok() {
        done += 1;
    }
    let mut second = start(&rig, 2, Duration::ZERO);
    let begun = Instant::now();
    while done < 8 {
        timeout(DEADLINE, second.seen.recv()).await.unwrap().unwrap();
        done += 1;
    }
    println!("the rest was done after {:?}", begun.elapsed());
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    second.shutdown.begin();
}

/// A process whose broker is gone ends when told to: nobody waits for a flush that cannot be.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_its_broker_stops_at_once() {
    let mut rig = Rig::start().await;
    let mut running = start(&rig, 4, Duration::ZERO);
    rig.submit(&submitted()).await;
    timeout(DEADLINE, running.seen.recv()).await.unwrap().unwrap();
    rig.server.kill().unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let begun = Instant::now();
    running.shutdown.begin();
    timeout(DEADLINE, running.task.join_next()).await.unwrap();
    println!("stopped after {:?}", begun.elapsed());
    // A flush waits for a broker, and this one never comes back.
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

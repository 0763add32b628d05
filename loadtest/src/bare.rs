//! The limit that throughput is compared with: the same nats-server program, with the same sync
//! setting and the same number of publishers, that only stores messages of the same size.
//!
//! A round lasts seconds, not messages: a burst that ends before the first sync of setting `1s` is
//! not what a broker sustains. The caller takes rounds before and after what it compares, because
//! the cost of a sync on a shared disk changes twentyfold within minutes.

use crate::{programs::Programs, scenario::Durability, stats};
use anyhow::{Context as _, Result, bail, ensure};
use async_nats::jetstream::{self, stream};
use bytes::Bytes;
use serde::Deserialize;
use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{task::JoinSet, time::sleep};

const READY_MAX: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Connections of the publishers: about as many as services of an installation publish over.
const CONNECTIONS: usize = 4;

/// How long a round publishes: several syncs of setting `1s`.
const ROUND: Duration = Duration::from_secs(4);

/// The same for a smoke run.
const ROUND_QUICK: Duration = Duration::from_millis(200);

/// Most messages of a round: 2 GiB of 2 KiB each, which is all the disk that a round may take.
const MESSAGES_MAX: u64 = 1 << 20;

/// Bytes that the broker stores with each message besides subject, headers and payload: length,
/// sequence, time, length of the subject, checksum.
const RECORD_BYTES: usize = 30;

/// A broker without accounts, ended on drop.
struct Broker {
    child: Child,
    _dir: TempDir,
    url: String,
}

#[derive(Deserialize)]
struct Ports {
    nats: Vec<String>,
}

impl Broker {
    async fn start(programs: &Programs, durability: Durability, dir: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("hotcell-bare-").tempdir_in(dir)?;
        let path = dir.path().display();
        // Limits as in an installation's own configuration.
        let config = format!(
            "listen: \"127.0.0.1:-1\"\nmax_payload: 262144\nmax_pending: 16777216\n\
             write_deadline: \"5s\"\nports_file_dir: \"{path}\"\n\
             jetstream {{ store_dir: \"{path}/jetstream\", sync_interval: {} }}\n",
            match durability {
                Durability::Always => "always",
                Durability::OneSecond => "\"1s\"",
            }
        );
        let file = dir.path().join("nats.conf");
        fs::write(&file, config)?;
        let log = File::create(dir.path().join("nats.log"))?;
        let child = Command::new(programs.nats_server()?)
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start nats-server")?;
        let ports = dir.path().join(format!("nats-server_{}.ports", child.id()));
        let mut broker = Self { child, _dir: dir, url: String::new() };
        let until = Instant::now() + READY_MAX;
        loop {
            let text = fs::read(&ports).unwrap_or_default();
            if let Ok(ports) = serde_json::from_slice::<Ports>(&text) {
                broker.url = ports.nats.into_iter().next().context("no address")?;
                return Ok(broker);
            }
            if broker.child.try_wait()?.is_some() || Instant::now() > until {
                bail!("the bare nats-server was not ready");
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What is published.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// Whether this is a smoke run.
    pub(crate) quick: bool,
    /// Bytes of each, as stored.
    pub(crate) bytes: f64,
    /// Messages of one job: they share a prefix.
    pub(crate) per_job: u64,
    /// Publishes that wait for their acknowledgement at once.
    pub(crate) in_flight: u32,
}

/// Acknowledged publishes per second, sustained for one round on a new broker.
pub(crate) async fn rate(
    programs: &Programs,
    durability: Durability,
    dir: &Path,
    load: Load,
) -> Result<f64> {
    let broker = Broker::start(programs, durability, dir).await?;
    let mut contexts = Vec::new();
    for _ in 0..CONNECTIONS {
        contexts.push(jetstream::new(async_nats::connect(&broker.url).await?));
    }
    let first = contexts.first().context("there are connections")?;
    let config = stream::Config {
        name: "BARE".to_owned(),
        subjects: vec!["bare.>".to_owned()],
        storage: stream::StorageType::File,
        allow_direct: true,
        ..Default::default()
    };
    let mut stream = first.create_stream(config).await?;
    let (stored, took) = publish(&contexts, load).await?;
    // What was acknowledged is there: nothing was counted twice or dropped as a repetition.
    let kept = stream.info().await?.state.messages;
    ensure!(kept == stored, "{stored} publishes were acknowledged, and {kept} messages are stored");
    Ok(stats::ratio(stats::number(stored), took.as_secs_f64()))
}

async fn publish(contexts: &[jetstream::Context], load: Load) -> Result<(u64, Duration)> {
    let round = if load.quick { ROUND_QUICK } else { ROUND };
    let next = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for context in contexts.iter().cycle().take(usize::try_from(load.in_flight)?) {
        let (context, next) = (context.clone(), next.clone());
        tasks.spawn(async move {
            let mut stored = 0_u64;
            while begun.elapsed() < round {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= MESSAGES_MAX {
                    break;
                }
                let (job, event) = (number / load.per_job, number % load.per_job);
                let subject = format!("bare.{job}.{event}");
                context.publish(subject.clone(), payload(load.bytes, &subject)).await?.await?;
                stored += 1;
            }
            anyhow::Ok(stored)
        });
    }
    let mut stored = 0;
    while let Some(task) = tasks.join_next().await {
        stored += task??;
    }
    Ok((stored, begun.elapsed()))
}

/// A payload with which the stored message has so many bytes.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a mean size of messages of at most 256 KiB"
)]
fn payload(bytes: f64, subject: &str) -> Bytes {
    let size = (bytes.max(0.0) as usize).saturating_sub(RECORD_BYTES + subject.len());
    vec![b'x'; size].into()
}

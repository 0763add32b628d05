//! The load: tenants that submit jobs and hear of their end by webhook.
//!
//! Promises: a closed loop has so many jobs on their way and no more; an open loop sends at the
//! intended times, and a job's time counts from its intended time, so that a stall is not hidden by
//! the requests that it kept from being sent (coordinated omission). Any job that does not complete
//! ends the run with an error.

use crate::{
    client::{self, Tenant},
    installation::Installation,
    scenario::Scenario,
    sink::Sink,
    stats::{self, Times},
};
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{task::JoinSet, time::sleep_until};

/// A job ends within this, or the run has failed.
pub(crate) const JOB_MAX: Duration = Duration::from_secs(60);

/// A closed loop submits for at most so long; what it did not reach is not part of the result.
const RUN_MAX: Duration = Duration::from_secs(60);

/// The end of a job that counts.
const COMPLETED: &str = "job.completed";

/// All tenants of an installation, each with one confirmed upload and one webhook.
pub(crate) struct Fleet {
    tenants: Vec<(Tenant, Bytes)>,
    sink: Sink,
}

/// What a load did.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// From intended submit to webhook.
    pub(crate) times: Times,
    /// From the first submit to the last webhook.
    pub(crate) elapsed: Duration,
}

impl Outcome {
    pub(crate) fn jobs(&self) -> f64 {
        stats::number(self.times.count())
    }

    pub(crate) fn per_second(&self) -> f64 {
        stats::ratio(self.jobs(), self.elapsed.as_secs_f64())
    }
}

/// A progress bar on the terminal.
pub(crate) fn bar(length: u64, doing: &str) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{msg:<32} {bar:32} {pos:>6}/{len}  {elapsed}")?;
    let bar = ProgressBar::new(length).with_message(doing.to_owned());
    bar.set_style(style.progress_chars("━━╌"));
    Ok(bar)
}

/// Half a second of picture and tone.
fn clip(dir: &std::path::Path) -> Result<Bytes> {
    let path = dir.join("load-clip.mp4");
    let ran = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-f", "lavfi", "-i", "testsrc2=d=0.5:s=160x120:r=10"])
        .args(["-f", "lavfi", "-i", "sine=d=0.5", "-c:v", "libx264", "-preset", "ultrafast"])
        .args(["-c:a", "aac", "-y"])
        .arg(&path)
        .status()
        .context("cannot start ffmpeg")?;
    ensure!(ran.success(), "ffmpeg made no clip");
    Ok(std::fs::read(path)?.into())
}

/// One tenant with an endpoint at `sink`.
pub(crate) async fn tenant(
    installation: &Installation,
    sink: &Sink,
    http: &reqwest::Client,
    number: u32,
) -> Result<Tenant> {
    let (key, totp) = installation.tenant_key(number)?;
    let tenant = Tenant::new(http, &installation.env("HOTCELL_API")?, key);
    sink.trust(&tenant.stepped_up(&totp).await?.webhook(&sink.next_url()).await?)?;
    Ok(tenant)
}

impl Fleet {
    pub(crate) async fn gather(installation: &Installation, scenario: &Scenario) -> Result<Self> {
        let (http, sink) = (client::http()?, Sink::start().await?);
        let media = clip(installation.data())?;
        let mut tenants = Vec::new();
        for number in 0..scenario.tenants {
            let tenant = tenant(installation, &sink, &http, number).await?;
            let upload = tenant.upload("load.mp4", media.clone()).await?;
            tenants.push((tenant, Tenant::job(&upload)));
        }
        Ok(Self { tenants, sink })
    }

    /// Deliveries that came again, and that did not verify.
    pub(crate) fn odd(&self) -> (u64, u64) {
        self.sink.odd()
    }

    /// The tenant of a number, with the body of its job.
    pub(crate) fn tenant(&self, index: usize) -> Result<&(Tenant, Bytes)> {
        self.tenants.get(index).context("there is a tenant")
    }

    /// Submits one job and waits for its webhook; when that came.
    async fn one(&self, number: u64) -> Result<Instant> {
        let index = usize::try_from(number)? % self.tenants.len();
        let (tenant, job) = self.tenants.get(index).context("there is a tenant")?;
        let id = tenant.submit(job.clone()).await?;
        let arrival = self.sink.wait(&id, JOB_MAX).await?;
        ensure!(arrival.event == COMPLETED, "job {id} ended as {}", arrival.event);
        Ok(arrival.at)
    }
}

/// So many jobs, with so many on their way at once.
pub(crate) async fn closed(
    fleet: &Arc<Fleet>,
    jobs: u64,
    in_flight: u32,
    doing: &str,
) -> Result<Outcome> {
    let (next, progress, begun) = (Arc::new(AtomicU64::new(0)), bar(jobs, doing)?, Instant::now());
    let mut tasks = JoinSet::new();
    for _ in 0..in_flight {
        let (fleet, next, progress) = (fleet.clone(), next.clone(), progress.clone());
        tasks.spawn(async move {
            let mut done = Vec::new();
            while begun.elapsed() < RUN_MAX {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= jobs {
                    break;
                }
                let sent = Instant::now();
                done.push((sent, fleet.one(number).await?));
                progress.inc(1);
            }
            anyhow::Ok(done)
        });
    }
    let mut times = Vec::new();
    while let Some(task) = tasks.join_next().await {
        times.append(&mut task??);
    }
    progress.finish_and_clear();
    Ok(outcome(begun, &times))
}

/// So many jobs per second for so many seconds, whatever becomes of them.
pub(crate) async fn open(
    fleet: &Arc<Fleet>,
    rate: u32,
    seconds: u32,
    doing: &str,
) -> Result<Outcome> {
    let jobs = rate.saturating_mul(seconds);
    let (progress, begun) = (bar(u64::from(jobs), doing)?, Instant::now());
    let mut tasks = JoinSet::new();
    for number in 0..jobs {
        let intended = begun + Duration::from_secs_f64(f64::from(number) / f64::from(rate));
        sleep_until(intended.into()).await;
        let (fleet, progress) = (fleet.clone(), progress.clone());
        tasks.spawn(async move {
            let ended = fleet.one(u64::from(number)).await?;
            progress.inc(1);
            anyhow::Ok((intended, ended))
        });
    }
    let mut times = Vec::new();
    while let Some(task) = tasks.join_next().await {
        times.push(task??);
    }
    progress.finish_and_clear();
    Ok(outcome(begun, &times))
}

fn outcome(begun: Instant, done: &[(Instant, Instant)]) -> Outcome {
    let mut times = Times::default();
    for (sent, ended) in done {
        times.record(ended.saturating_duration_since(*sent));
    }
    let last = done.iter().map(|(_, ended)| *ended).max().unwrap_or(begun);
    Outcome { times, elapsed: last.saturating_duration_since(begun) }
}

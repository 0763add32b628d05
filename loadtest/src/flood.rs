//! One tenant submits a flood, another twenty jobs behind it: how long these wait for a worker,
//! against how long they wait alone. A wait is from `validated` to the first `assigned`, by the
//! signed times in the job's own record.

use crate::{
    client::Tenant,
    driver::{Fleet, JOB_MAX, bar},
    installation::Installation,
    programs::Programs,
    report::Measured,
    scenario::Scenario,
    stats::{Times, ratio},
};
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use serde_json::{Value, json};
use std::{
    path::Path,
    time::{Duration, Instant},
};
use tokio::{task::JoinSet, time::sleep};

/// Jobs of the tenant that comes second.
const BURST: usize = 20;

/// What its wait may grow by.
const GOAL: f64 = 2.0;

/// Pause between two looks at a job.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Jobs of the flood that are looked at: as many as are submitted at once, at most.
const LAST: usize = 64;

/// Whose is whose.
const FLOODING: usize = 0;
const OTHER: usize = 1;

/// Submits so many jobs, so many at once; their ids.
async fn submit(
    (tenant, job): &(Tenant, Bytes),
    jobs: usize,
    in_flight: usize,
    doing: &str,
) -> Result<Vec<String>> {
    let progress = bar(u64::try_from(jobs)?, doing)?;
    let (mut tasks, mut ids, mut left) = (JoinSet::new(), Vec::new(), jobs);
    while left > 0 || !tasks.is_empty() {
        while left > 0 && tasks.len() < in_flight {
            let (tenant, job) = (tenant.clone(), job.clone());
            tasks.spawn(async move { tenant.submit_within_rate(job).await });
            left -= 1;
        }
        if let Some(id) = tasks.join_next().await {
            ids.push(id??);
            progress.inc(1);
        }
    }
    progress.finish_and_clear();
    Ok(ids)
}

/// When the job first reached `state`, in milliseconds since the epoch.
fn reached(job: &Value, state: &str) -> Option<u64> {
    let stamps = job.get("timeline")?.as_array()?;
    let first = stamps.iter().find(|it| it.get("state").and_then(Value::as_str) == Some(state))?;
    first.get("atMs")?.as_u64()
}

/// Waits until each job has had a worker; how long that took.
async fn waits(tenant: &Tenant, jobs: &[String]) -> Result<Times> {
    let mut times = Times::default();
    for id in jobs {
        let until = Instant::now() + JOB_MAX;
        let job = loop {
            let job = tenant.job_now(id).await?;
            if reached(&job, "completed").is_some() {
                break job;
            }
            let state = job.get("state").and_then(Value::as_str).unwrap_or_default();
            ensure!(!matches!(state, "failed" | "rejected" | "cancelled"), "job {id} is {state}");
            ensure!(Instant::now() < until, "job {id} is still {state}");
            sleep(LOOK_EVERY).await;
        };
        let (ready, given) = (reached(&job, "validated"), reached(&job, "assigned"));
        let ready = ready.context("a completed job was validated")?;
        let given = given.context("a completed job was assigned")?;
        times.record(Duration::from_millis(given.saturating_sub(ready)));
    }
    Ok(times)
}

fn backlog(usage: &Value) -> u64 {
    usage.pointer("/waiting/normal").and_then(Value::as_u64).unwrap_or(0)
}

/// Waits until the flood has passed the validator, whose work on it would be measured with the
/// queue on a machine of few cores; how much of it waits for a worker then.
async fn settled(tenant: &Tenant, flood: &[String]) -> Result<u64> {
    let until = Instant::now() + JOB_MAX;
    // The last ones, which were on their way at once.
    for id in flood.iter().rev().take(LAST) {
        while reached(&tenant.job_now(id).await?, "validated").is_none() && Instant::now() < until {
            sleep(LOOK_EVERY).await;
        }
    }
    Ok(backlog(&tenant.usage().await?))
}

/// Runs the scenario.
pub(crate) async fn run(
    programs: &Programs,
    scenario: &Scenario,
    dir: &Path,
    quick: bool,
) -> Result<Measured> {
    let installation = Installation::start(programs, scenario, dir)?;
    let (jobs, in_flight) = (usize::try_from(scenario.jobs)?, usize::try_from(scenario.in_flight)?);
    let measured = async {
        let fleet = Fleet::gather(&installation, scenario).await?;
        let (flooding, other) = (fleet.tenant(FLOODING)?, fleet.tenant(OTHER)?);
        let first = submit(other, 2, 2, "warm-up").await?;
        waits(&other.0, &first).await?;
        let burst = submit(other, BURST, BURST, "alone").await?;
        let alone = waits(&other.0, &burst).await?;
        let begun = Instant::now();
        let flood = submit(flooding, jobs, in_flight, "flood").await?;
        let took = begun.elapsed();
        let before = settled(&flooding.0, &flood).await?;
        let burst = submit(other, BURST, BURST, "beside it").await?;
        let beside = waits(&other.0, &burst).await?;
        let after = backlog(&flooding.0.usage().await?);
        anyhow::Ok((alone, beside, took, before, after))
    };
    let (alone, beside, took, before, after) =
        measured.await.with_context(|| installation.complaints())?;
    // A smoke run's flood is so small that a busy machine is done with it while it is submitted.
    ensure!(after > 0 || quick, "the flood was over before it was met");
    let grown = ratio(beside.ms(0.95), alone.ms(0.95));
    let row = |name: &str, times: &Times, ratio: String, goal: String| {
        let ms = [times.ms(0.5), times.ms(0.95), times.ms_max()].map(|ms| format!("{ms:.0}"));
        [vec![name.to_owned()], ms.to_vec(), vec![ratio, goal]].concat()
    };
    let rows = vec![
        row(&format!("{BURST} jobs alone"), &alone, "1.00".to_owned(), String::new()),
        row(
            &format!("{BURST} jobs behind {jobs} of another tenant"),
            &beside,
            format!("{grown:.2}"),
            format!("< {GOAL}"),
        ),
    ];
    let notes = vec![format!(
        "{} workers of {} cell each, cells of `{}`; the flood was submitted in {:.1} s; when the \
         burst came {before} of its jobs waited, when the burst was done {after}",
        scenario.encoders,
        scenario.slots,
        scenario.cell.as_deref().unwrap_or_default(),
        took.as_secs_f64(),
    )];
    let numbers = json!({
        "alone_p50_ms": alone.ms(0.5), "alone_p95_ms": alone.ms(0.95),
        "beside_p50_ms": beside.ms(0.5), "beside_p95_ms": beside.ms(0.95),
        "ratio": grown, "goal": GOAL, "backlog": [before, after],
    });
    Ok(Measured { rows, notes, numbers })
}

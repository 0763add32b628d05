//! Jobs per second through all stages, against what a bare broker sustains for as many publishes.

use crate::{
    bare,
    driver::{Fleet, Outcome, closed},
    installation::Installation,
    process,
    programs::Programs,
    report::Measured,
    scenario::{Durability, Scenario},
    stats::{number, ratio},
    streams::{Stored, Streams},
};
use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use std::{collections::BTreeMap, path::Path, sync::Arc};

/// Share of the bare broker's rate that is the goal.
const GOAL: f64 = 0.5;

/// Jobs before the measured ones: as many as are on their way at once, and no fewer than this.
const WARM_UP_MIN: u32 = 16;

/// What the pipeline did between two settled moments.
struct Run {
    outcome: Outcome,
    before: Stored,
    after: Stored,
    used: BTreeMap<String, f64>,
    busy_ms: f64,
    odd: (u64, u64),
}

async fn pipeline(programs: &Programs, scenario: &Scenario, dir: &Path) -> Result<Run> {
    let installation = Installation::start(programs, scenario, dir)?;
    let measured = async {
        let fleet = Arc::new(Fleet::gather(&installation, scenario).await?);
        let streams = Streams::connect(&installation).await?;
        let warm_up = scenario.in_flight.clamp(WARM_UP_MIN, scenario.jobs.max(WARM_UP_MIN));
        closed(&fleet, u64::from(warm_up), scenario.in_flight, "warm-up").await?;
        let before = streams.settled().await?;
        let (usage, busy) = (process::usage(installation.pid()), process::busy_ms());
        let jobs = u64::from(scenario.jobs);
        let outcome = closed(&fleet, jobs, scenario.in_flight, &scenario.name).await?;
        let busy_ms = process::busy_ms() - busy;
        let after = streams.settled().await?;
        let used = process::since(&usage, &process::usage(installation.pid()));
        anyhow::Ok(Run { outcome, before, after, used, busy_ms, odd: fleet.odd() })
    };
    measured.await.with_context(|| installation.complaints())
}

/// Size and number of a job's messages, for the round before they are measured: what the messages
/// of a no-op job were when this was written. They shape the load, and are in no ratio.
const BEFORE: (f64, u64) = (2100.0, 11);

/// Runs the scenario.
pub(crate) async fn run(
    programs: &Programs,
    scenario: &Scenario,
    dir: &Path,
    quick: bool,
) -> Result<Measured> {
    let durability = scenario.durability.unwrap_or(Durability::Always);
    let in_flight = scenario.in_flight;
    let load = bare::Load { quick, bytes: BEFORE.0, per_job: BEFORE.1, in_flight };
    let first = bare::rate(programs, durability, dir, load).await?;
    let run = pipeline(programs, scenario, dir).await?;
    let jobs = run.outcome.jobs();
    ensure!(jobs > 0.0, "no job was done");
    let messages = run.after.messages_since(&run.before);
    let per_job = number(messages) / jobs;
    let bytes = run.after.mean_bytes_since(&run.before);
    let whole = (messages / run.outcome.times.count()).max(1);
    let load = bare::Load { quick, bytes, per_job: whole, in_flight };
    let second = bare::rate(programs, durability, dir, load).await?;
    let bare_rate = f64::midpoint(first, second);
    let (rate, bare_jobs) = (run.outcome.per_second(), ratio(bare_rate, per_job));
    let cpu = run.used.values().sum::<f64>() / jobs;
    let times = &run.outcome.times;
    let row = vec![
        scenario.name.clone(),
        format!("{rate:.1}"),
        format!("{per_job:.2}"),
        format!("{bytes:.0}"),
        format!("{bare_rate:.0}"),
        format!("{bare_jobs:.0}"),
        format!("{:.3}", ratio(rate, bare_jobs)),
        format!(">= {GOAL}"),
        format!("{:.1}", times.ms(0.5)),
        format!("{:.1}", times.ms(0.99)),
        format!("{cpu:.2}"),
    ];
    let (repeated, refused) = run.odd;
    let busy = run.busy_ms / jobs;
    let notes = vec![
        format!(
            "bare publishes: {first:.0} messages/s before and {second:.0} after, each sustained \
             for seconds; against these two the ratio is {:.3} and {:.3}",
            ratio(rate * per_job, first),
            ratio(rate * per_job, second)
        ),
        format!("messages per job: {}", run.after.per_job(&run.before, jobs)),
        format!("CPU ms per job: {}", process::per_job(&run.used, jobs)),
        format!(
            "all processors were busy {busy:.2} ms per job, with the driver, the kernel's own work \
             and whatever else ran; {repeated} webhooks came twice, {refused} did not verify"
        ),
    ];
    let numbers = json!({
        "jobs": times.count(), "jobs_per_second": rate, "messages_per_job": per_job,
        "bytes_per_message": bytes, "bare_messages_per_second": [first, second],
        "bare_jobs_per_second": bare_jobs, "ratio": ratio(rate, bare_jobs), "goal": GOAL,
        "p50_ms": times.ms(0.5), "p99_ms": times.ms(0.99), "cpu_ms_per_job": cpu,
        "cpu_ms_by_program": run.used, "machine_busy_ms_per_job": busy,
        "webhooks_repeated": repeated, "webhooks_refused": refused,
    });
    Ok(Measured { rows: vec![row], notes, numbers })
}

//! From submit to webhook at a steady rate, and processor time per job over all processes.

use crate::{
    driver::{Fleet, closed, open},
    installation::Installation,
    process,
    programs::Programs,
    report::Measured,
    scenario::Scenario,
    streams::Streams,
};
use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use std::{path::Path, sync::Arc};

/// Jobs before the measured ones.
const WARM_UP: u64 = 20;

/// What the mark in [`reference`] means.
pub(crate) const REFERENCE_NOTE: &str =
    "* as published by its authors for such a machine; not measured here";

/// What a five-queue pipeline on Redis does, by its authors' own figures.
pub(crate) fn reference() -> Vec<String> {
    let row = ["five queues on Redis, sync 1s, no cell *", "-", "11.4", "17.5", "-", "2.60", "557"];
    row.map(str::to_owned).to_vec()
}

/// Runs the scenario.
pub(crate) async fn run(programs: &Programs, scenario: &Scenario, dir: &Path) -> Result<Measured> {
    let installation = Installation::start(programs, scenario, dir)?;
    let measured = async {
        let fleet = Arc::new(Fleet::gather(&installation, scenario).await?);
        let streams = Streams::connect(&installation).await?;
        closed(&fleet, WARM_UP, 1, "warm-up").await?;
        streams.settled().await?;
        let (usage, busy) = (process::usage(installation.pid()), process::busy_ms());
        let outcome = open(&fleet, scenario.rate, scenario.seconds, &scenario.name).await?;
        let busy_ms = process::busy_ms() - busy;
        streams.settled().await?;
        let used = process::since(&usage, &process::usage(installation.pid()));
        anyhow::Ok((outcome, used, busy_ms, fleet.odd()))
    };
    let (outcome, used, busy_ms, odd) =
        measured.await.with_context(|| installation.complaints())?;
    let (jobs, times) = (outcome.jobs(), &outcome.times);
    ensure!(jobs > 0.0, "no job was done");
    let cpu = used.values().sum::<f64>() / jobs;
    let row = vec![
        scenario.name.clone(),
        scenario.rate.to_string(),
        format!("{:.1}", times.ms(0.5)),
        format!("{:.1}", times.ms(0.99)),
        format!("{:.1}", times.ms_max()),
        format!("{cpu:.2}"),
    ];
    let busy = busy_ms / jobs;
    let notes = vec![
        format!("{} jobs; CPU ms per job: {}", times.count(), process::per_job(&used, jobs)),
        format!(
            "all processors were busy {busy:.2} ms per job, with the driver, the kernel's own work \
             and whatever else ran; {} webhooks came twice, {} did not verify",
            odd.0, odd.1
        ),
    ];
    let numbers = json!({
        "jobs": times.count(), "jobs_per_second": scenario.rate, "p50_ms": times.ms(0.5),
        "p90_ms": times.ms(0.9), "p99_ms": times.ms(0.99), "max_ms": times.ms_max(),
        "cpu_ms_per_job": cpu, "cpu_ms_by_program": used, "machine_busy_ms_per_job": busy,
    });
    Ok(Measured { rows: vec![row], notes, numbers })
}

//! Start to exit of a trivial program: by itself, under `unshare` with the same namespaces, and in
//! our cell. Rounds are interleaved, so that all three see the same machine.

use crate::{
    driver::bar,
    programs::Programs,
    report::Measured,
    scenario::Scenario,
    stats::{Times, ratio},
};
use anyhow::{Context as _, Result, ensure};
use hotcell_jail::{
    capture::Stdout,
    cell::{Cell, run as run_cell},
    profile::Profile,
    program::Program,
    root::Root,
};
use serde_json::json;
use std::{
    fs::Permissions,
    os::unix::fs::PermissionsExt as _,
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

/// The trivial program: prints one line.
const STUB: &str = "hotcell-stub";

/// Rounds before those that count.
const WARM_UP: u32 = 5;

/// The namespaces of the cell.
const NAMESPACES: [&str; 8] =
    ["--user", "--mount", "--net", "--pid", "--ipc", "--uts", "--cgroup", "--fork"];

async fn spawn(mut command: Command) -> Result<Duration> {
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let begun = Instant::now();
    let status = command.spawn()?.wait().await?;
    let took = begun.elapsed();
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(took)
}

async fn in_cell(cell: &Cell) -> Result<Duration> {
    let begun = Instant::now();
    let outcome = run_cell(cell, &CancellationToken::new(), Stdout::Discard).await?;
    let took = begun.elapsed();
    ensure!(outcome.is_clean_success(), "the cell ended with {:?}", outcome.end);
    Ok(took)
}

/// Runs the scenario.
pub(crate) async fn run(programs: &Programs, scenario: &Scenario) -> Result<Measured> {
    // The cell's user must reach its root, as it does in a service's cache.
    let cache = tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir()?;
    let stub = programs.path(STUB);
    let program = Program::resolve(&stub).context("the stub")?;
    let root = Root::prepare(cache.path(), &[program]).context("the cell's root")?;
    let mut cell = Cell::new(&programs.path("hotcell-jail"), &root, STUB, Profile::Transcode);
    cell.args = vec!["-version".to_owned()];
    let plain = || {
        let mut command = Command::new(&stub);
        command.arg("-version");
        command
    };
    let unshared = || {
        let mut command = Command::new("/usr/bin/unshare");
        command.args(NAMESPACES).arg(&stub).arg("-version");
        command
    };
    let mut times = [Times::default(), Times::default(), Times::default()];
    let progress = bar(u64::from(scenario.jobs), &scenario.name)?;
    for round in 0..scenario.jobs + WARM_UP {
        let took = [spawn(plain()).await?, spawn(unshared()).await?, in_cell(&cell).await?];
        if round >= WARM_UP {
            times.iter_mut().zip(took).for_each(|(times, took)| times.record(took));
            progress.inc(1);
        }
    }
    progress.finish_and_clear();
    Ok(measured(&times))
}

fn measured(times: &[Times; 3]) -> Measured {
    let [plain, unshared, _] = times;
    let names = ["spawn", "unshare, same namespaces", "hotcell cell"];
    let row = |(name, times): (&str, &Times)| {
        vec![
            name.to_owned(),
            format!("{:.2}", times.ms_min()),
            format!("{:.2}", times.ms(0.5)),
            format!("{:.2}", times.ms(0.9)),
            format!("{:.2}", times.ms(0.99)),
            format!("{:.2}", ratio(times.ms(0.5), plain.ms(0.5))),
            format!("{:.2}", ratio(times.ms(0.5), unshared.ms(0.5))),
        ]
    };
    let numbers = |times: &Times| {
        json!({
            "count": times.count(), "min_ms": times.ms_min(), "median_ms": times.ms(0.5),
            "p90_ms": times.ms(0.9), "p99_ms": times.ms(0.99),
        })
    };
    let [first, second, third] = times;
    Measured {
        rows: names.into_iter().zip(times).map(row).collect(),
        notes: vec![format!(
            "{} interleaved rounds; ratios are of medians; the cell has every layer on, reads its \
             program's output and a report, and is started by root",
            plain.count()
        )],
        numbers: json!({
            "spawn": numbers(first), "unshare": numbers(second), "cell": numbers(third),
        }),
    }
}

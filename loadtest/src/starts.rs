//! Start to exit of many cells, one at a time and several at once, as Firecracker's own test starts
//! 2000 jailers at each parallelism.
//!
//! Promises: every cell ends well and nothing of it is left, or the run fails. What else could be
//! left, and what this process could hold on to, is looked at by `services/jail/tests/leaks`.

use crate::{
    cell::{in_cell, slots, trivial},
    driver::bar,
    process,
    programs::Programs,
    report::Measured,
    scenario::Scenario,
    stats::{Times, number, ratio},
};
use anyhow::{Result, ensure};
use hotcell_jail::{cell::Cell, cgroup::Slot};
use indicatif::ProgressBar;
use serde_json::json;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// How many cells at once.
const AT_ONCE: [usize; 3] = [1, 2, 8];

/// Cells before those that count.
const WARM_UP: u32 = 5;

struct Run {
    times: Times,
    elapsed: Duration,
    cpu: Duration,
}

async fn cells(
    cell: &Cell,
    slots: &[Arc<Slot>],
    count: u32,
    at_once: usize,
    progress: &ProgressBar,
) -> Result<Run> {
    let (next, cpu, begun) =
        (Arc::new(AtomicU32::new(0)), process::children_cpu()?, Instant::now());
    let mut tasks = JoinSet::new();
    for number in 0..at_once {
        let (mut cell, next, progress) = (cell.clone(), next.clone(), progress.clone());
        cell.slot = slots.get(number).cloned();
        tasks.spawn(async move {
            let mut took = Vec::new();
            while next.fetch_add(1, Ordering::Relaxed) < count {
                let begun = Instant::now();
                in_cell(&cell).await?;
                took.push(begun.elapsed());
                progress.inc(1);
            }
            anyhow::Ok(took)
        });
    }
    let mut times = Times::default();
    while let Some(task) = tasks.join_next().await {
        task??.into_iter().for_each(|took| times.record(took));
    }
    let cpu = process::children_cpu()?.saturating_sub(cpu);
    Ok(Run { times, elapsed: begun.elapsed(), cpu })
}

/// Runs the scenario.
pub(crate) async fn run(programs: &Programs, scenario: &Scenario) -> Result<Measured> {
    let (_prepared, cell) = trivial(programs)?;
    for _ in 0..WARM_UP {
        in_cell(&cell).await?;
    }
    let (slots, groups) = slots(AT_ONCE.into_iter().max().unwrap_or(1))?;
    let open = process::descriptors()?;
    let progress = bar(u64::from(scenario.jobs) * 3, &scenario.name)?;
    let (mut rows, mut numbers) = (Vec::new(), Vec::new());
    for at_once in AT_ONCE {
        let Run { times, elapsed, cpu } =
            cells(&cell, &slots, scenario.jobs, at_once, &progress).await?;
        let left = process::tree(std::process::id()).len().saturating_sub(1);
        ensure!(left == 0, "{left} processes are left of {at_once} cells at once");
        let now = process::descriptors()?;
        ensure!(now <= open, "{open} descriptors became {now} with {at_once} cells at once");
        let (count, wall) = (number(times.count()), elapsed.as_secs_f64());
        let each = ratio(cpu.as_secs_f64() * 1000.0, count);
        rows.push(vec![
            format!("{} cells, {at_once} at once", times.count()),
            format!("{:.2}", times.ms_min()),
            format!("{:.2}", times.ms(0.5)),
            format!("{:.2}", times.ms(0.9)),
            format!("{:.2}", times.ms(0.99)),
            format!("{:.2}", times.ms_max()),
            format!("{each:.2}"),
            format!("{:.0}", ratio(count, wall)),
        ]);
        numbers.push(json!({
            "at_once": at_once, "count": times.count(), "min_ms": times.ms_min(),
            "median_ms": times.ms(0.5), "p90_ms": times.ms(0.9), "p99_ms": times.ms(0.99),
            "max_ms": times.ms_max(), "cpu_ms": each, "per_second": ratio(count, wall),
        }));
    }
    progress.finish_and_clear();
    Ok(Measured {
        rows,
        notes: vec![format!(
            "a trivial program in a cell with every layer on, started by root, in control \
                 groups ({groups}); all ended well, and no process and no descriptor is left; CPU \
                 is of launcher, process 1 and program"
        )],
        numbers: numbers.into(),
    })
}

//! Processor time of a process and everything below it, from `/proc/<pid>/stat` (proc_pid_stat(5)).
//!
//! Promises: the time of children that have ended is counted, with their parent. What the kernel
//! does for nobody in particular (removing a network namespace, writing back pages) is in no
//! process; [`busy_ms`] has it.

use anyhow::Result;
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::{TimeVal, TimeValLike as _},
};
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// What the programs in a worker's cells, and their launchers, are called.
pub(crate) const CELLS: &str = "cells";

/// The worker: what is below it are cells.
const WORKER: &str = "hotcell-encoder";

/// One process.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    parent: u32,
    /// File name of its program.
    pub(crate) name: String,
    own_ms: f64,
    ended_children_ms: f64,
}

/// The number in field `at` of a `stat` line, counted from 3, after the name's last `)`.
fn field<'a>(fields: &[&'a str], at: usize) -> &'a str {
    fields.get(at - 3).copied().unwrap_or_default()
}

fn read(pid: u32, tick_ms: f64) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, tail) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = tail.split_whitespace().collect();
    let ticks = |at: usize| field(&fields, at).parse::<f64>().unwrap_or(0.0) * tick_ms;
    let program = fs::read_link(format!("/proc/{pid}/exe")).ok();
    let name = program.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
    let comm = head.split_once('(').map_or("", |(_, name)| name);
    Some(Process {
        pid,
        parent: field(&fields, 4).parse().ok()?,
        name: name.unwrap_or(comm).trim_end_matches(" (deleted)").to_owned(),
        own_ms: ticks(14) + ticks(15),
        ended_children_ms: ticks(16) + ticks(17),
    })
}

/// A process and all below it.
pub(crate) fn tree(root: u32) -> Vec<Process> {
    let ticks = rustix::param::clock_ticks_per_second();
    let tick_ms = 1000.0 / f64::from(u32::try_from(ticks).unwrap_or(100));
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let all: HashMap<u32, Process> =
        pids.filter_map(|pid| Some((pid, read(pid, tick_ms)?))).collect();
    let below = |mut pid: u32| {
        // A chain of parents is shorter than the number of processes.
        for _ in 0..all.len() {
            if pid == root {
                return true;
            }
            match all.get(&pid) {
                Some(process) => pid = process.parent,
                None => return false,
            }
        }
        false
    };
    all.values().filter(|process| below(process.pid)).cloned().collect()
}

/// Folder of the program that a worker below `root` runs from.
pub(crate) fn worker_program(root: u32) -> Option<PathBuf> {
    let worker = tree(root).into_iter().find(|process| process.name == WORKER)?;
    fs::read_link(format!("/proc/{}/exe", worker.pid)).ok()
}

/// Milliseconds of processor time so far, by program; everything below a worker is [`CELLS`].
pub(crate) fn usage(root: u32) -> BTreeMap<String, f64> {
    let processes = tree(root);
    let workers: Vec<u32> =
        processes.iter().filter(|process| process.name == WORKER).map(|it| it.pid).collect();
    let by_pid: HashMap<u32, &Process> = processes.iter().map(|it| (it.pid, it)).collect();
    let in_cell = |process: &Process| {
        let mut at = Some(process);
        for _ in 0..processes.len() {
            let Some(process) = at else { return false };
            if workers.contains(&process.parent) {
                return true;
            }
            at = by_pid.get(&process.parent).copied();
        }
        false
    };
    let mut sums = BTreeMap::new();
    let mut add = |name: &str, ms: f64| *sums.entry(name.to_owned()).or_insert(0.0) += ms;
    for process in &processes {
        if in_cell(process) {
            add(CELLS, process.own_ms + process.ended_children_ms);
        } else if process.name == WORKER {
            add(WORKER, process.own_ms);
            add(CELLS, process.ended_children_ms);
        } else {
            add(&process.name, process.own_ms + process.ended_children_ms);
        }
    }
    sums
}

/// What was used between two looks, by program.
pub(crate) fn since(
    before: &BTreeMap<String, f64>,
    after: &BTreeMap<String, f64>,
) -> BTreeMap<String, f64> {
    let used = |(name, ms): (&String, &f64)| {
        (name.clone(), (ms - before.get(name).copied().unwrap_or(0.0)).max(0.0))
    };
    after.iter().map(used).collect()
}

/// Processor time of this process's children, and of theirs, that have been waited for.
///
/// # Errors
/// What getrusage(2) says.
pub(crate) fn children_cpu() -> Result<Duration> {
    let used = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let micros = |time: TimeVal| u64::try_from(time.num_microseconds()).unwrap_or(0);
    Ok(Duration::from_micros(micros(used.user_time()) + micros(used.system_time())))
}

/// Descriptors that this process has open.
///
/// # Errors
/// When `/proc` is not there.
pub(crate) fn descriptors() -> Result<usize> {
    Ok(fs::read_dir("/proc/self/fd")?.count())
}

/// Milliseconds that all processors were busy since boot, with everything (proc_stat(5)).
pub(crate) fn busy_ms() -> f64 {
    let ticks = rustix::param::clock_ticks_per_second();
    let tick_ms = 1000.0 / f64::from(u32::try_from(ticks).unwrap_or(100));
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    let numbers: Vec<f64> =
        line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest time is in user already.
    let idle: f64 = numbers.iter().skip(3).take(2).sum();
    (numbers.iter().take(8).sum::<f64>() - idle) * tick_ms
}

/// "nats-server 1.20, cells 0.90": largest first, of `jobs` jobs.
pub(crate) fn per_job(used: &BTreeMap<String, f64>, jobs: f64) -> String {
    let mut parts: Vec<(&String, f64)> = used.iter().map(|(name, ms)| (name, ms / jobs)).collect();
    parts.sort_by(|a, b| b.1.total_cmp(&a.1));
    let told = parts.iter().filter(|(_, ms)| *ms >= 0.005);
    told.map(|(name, ms)| format!("{} {ms:.2}", name.trim_start_matches("hotcell-")))
        .collect::<Vec<_>>()
        .join(", ")
}

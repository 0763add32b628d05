//! Start to exit of a trivial program: by itself, under `unshare` and `bwrap` with the same
//! namespaces, and in our cell. Rounds are interleaved, so that all see the same machine.
//!
//! Promises: `bwrap` gets the cell's root, its `/tmp`, its user and no capability; what it does not
//! do is in the notes. Refuses to leave out a row: a tool that is missing ends the run.

use crate::{
    driver::bar,
    process,
    programs::Programs,
    report::Measured,
    scenario::Scenario,
    stats::{Times, ratio},
};
use anyhow::{Context as _, Result, ensure};
use hotcell_jail::{
    Identity,
    capture::Stdout,
    cell::{Cell, run as run_cell},
    cgroup::{Choice, Groups, Slot, Wish},
    profile::Profile,
    program::Program,
    root::Root,
};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::{
    fs::Permissions,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{process::Command, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// The trivial program: prints one line.
const STUB: &str = "hotcell-stub";

/// Rounds before those that count.
const WARM_UP: u32 = 5;

/// A cell takes less than so many times what `unshare` takes.
const GOAL: f64 = 2.0;

/// The namespaces of the cell.
const NAMESPACES: [&str; 8] =
    ["--user", "--mount", "--net", "--pid", "--ipc", "--uts", "--cgroup", "--fork"];

/// The same for `bwrap`, which always takes a mount namespace, and what else it has of a cell.
const BWRAP: &[&str] = &[
    "--unshare-user",
    "--unshare-net",
    "--unshare-pid",
    "--unshare-ipc",
    "--unshare-uts",
    "--unshare-cgroup",
    "--uid",
    "65534",
    "--gid",
    "65534",
    "--hostname",
    "cell",
    "--cap-drop",
    "ALL",
    "--die-with-parent",
    "--new-session",
];

/// A cache with one root in it, which is removed with this value.
pub(crate) struct Prepared {
    /// Kept for its drop.
    _cache: TempDir,
    pub(crate) root: Root,
}

/// The root of one program's cells.
pub(crate) fn prepare(program: &Path) -> Result<Prepared> {
    // The cell's user must reach its root, as it does in a service's cache.
    let cache = tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir()?;
    let program =
        Program::resolve(program).with_context(|| format!("the program {}", program.display()))?;
    let root = Root::prepare(cache.path(), &[program]).context("the cell's root")?;
    Ok(Prepared { _cache: cache, root })
}

/// So many slots in this host's control groups, and what they have; no slots where it gives none.
pub(crate) fn slots(count: usize) -> Result<(Vec<Arc<Slot>>, String)> {
    let wish = Wish { choice: Choice::Auto, folders: Vec::new(), cpu_percent: None };
    let groups = Groups::open(&wish).context("control groups")?;
    let (told, number) = (groups.to_string(), groups.version().map_or(0, |_| count));
    let slot = |number| groups.slot(number, Identity::for_this_process()).map(Arc::new);
    let slots = (0..number).map(slot).collect::<Result<_, _>>();
    Ok((slots.context("a slot's control groups")?, told))
}

/// A cell around the trivial program.
pub(crate) fn trivial(programs: &Programs) -> Result<(Prepared, Cell)> {
    let prepared = prepare(&programs.path(STUB))?;
    let launcher = programs.path("hotcell-jail");
    let mut cell = Cell::new(&launcher, &prepared.root, STUB, Profile::Transcode);
    cell.args = vec!["-version".to_owned()];
    Ok((prepared, cell))
}

/// Wall time and processor time of one start to exit.
pub(crate) struct Took {
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
}

/// What `doing` takes; nothing else may be started meanwhile.
pub(crate) async fn timed(doing: impl Future<Output = Result<()>>) -> Result<Took> {
    let (cpu, begun) = (process::children_cpu()?, Instant::now());
    doing.await?;
    let wall = begun.elapsed();
    Ok(Took { wall, cpu: process::children_cpu()?.saturating_sub(cpu) })
}

pub(crate) async fn spawn(mut command: Command) -> Result<()> {
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().with_context(|| format!("cannot start {command:?}"));
    let status = child?.wait().await?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

pub(crate) async fn in_cell(cell: &Cell) -> Result<()> {
    let outcome = run_cell(cell, &CancellationToken::new(), Stdout::Discard).await?;
    let (end, said) = (&outcome.end, &outcome.stderr.head);
    ensure!(outcome.is_clean_success(), "the cell ended with {end:?}: {said}");
    Ok(())
}

/// What is measured.
const NAMES: [&str; 5] = [
    "spawn",
    "unshare, same namespaces",
    "bwrap, same namespaces and mounts",
    "hotcell cell",
    "hotcell cell in control groups",
];

/// Both times of many rounds.
#[derive(Default)]
struct Many {
    wall: Times,
    cpu: Times,
}

fn plain(stub: &Path) -> Command {
    let mut command = Command::new(stub);
    command.arg("-version");
    command
}

fn unshared(stub: &Path) -> Command {
    let mut command = Command::new("/usr/bin/unshare");
    command.args(NAMESPACES).arg(stub).arg("-version");
    command
}

fn bwrapped(cell: &Cell) -> Command {
    let mut command = Command::new("/usr/bin/bwrap");
    command.args(BWRAP).arg("--ro-bind").arg(cell.root.path()).arg("/");
    command.args(["--size", &cell.limits.tmp_bytes.to_string(), "--tmpfs", "/tmp"]);
    command.args(["--chdir", "/", "--", &format!("/bin/{STUB}"), "-version"]);
    command
}

/// All rounds. The second cell is in control groups.
async fn rounds(
    stub: PathBuf,
    cells: [Cell; 2],
    count: u32,
    progress: ProgressBar,
) -> Result<[Many; 5]> {
    let [cell, grouped] = &cells;
    let mut all: [Many; 5] = Default::default();
    for round in 0..count + WARM_UP {
        let took = [
            timed(spawn(plain(&stub))).await?,
            timed(spawn(unshared(&stub))).await?,
            timed(spawn(bwrapped(cell))).await?,
            timed(in_cell(cell)).await?,
            timed(in_cell(grouped)).await?,
        ];
        if round >= WARM_UP {
            for (many, took) in all.iter_mut().zip(took) {
                many.wall.record(took.wall);
                many.cpu.record(took.cpu);
            }
            progress.inc(1);
        }
    }
    Ok(all)
}

/// Runs the scenario.
pub(crate) async fn run(programs: &Programs, scenario: &Scenario) -> Result<Measured> {
    let (_prepared, cell) = trivial(programs)?;
    let (slots, groups) = slots(1)?;
    let mut grouped = cell.clone();
    grouped.slot = slots.first().cloned();
    let progress = bar(u64::from(scenario.jobs), &scenario.name)?;
    // In a task, as a worker runs its cells: the main thread would be woken by another for each event.
    let mut task = JoinSet::new();
    let stub = programs.path(STUB);
    task.spawn(rounds(stub, [cell, grouped], scenario.jobs, progress.clone()));
    let all = task.join_next().await.context("there is a task")???;
    progress.finish_and_clear();
    let mut rows = NAMES.map(|name| (name, Many::default()));
    rows.iter_mut().zip(all).for_each(|(row, many)| row.1 = many);
    Ok(measured(&rows, &groups))
}

fn measured(rows: &[(&str, Many); 5], groups: &str) -> Measured {
    let median = |at: usize| rows.get(at).map_or(0.0, |(_, many)| many.wall.ms(0.5));
    let (plain, unshared, bwrapped) = (median(0), median(1), median(2));
    let goal = |at: usize| median(at) < GOAL * unshared && median(at) < bwrapped;
    let row = |(at, (name, Many { wall, cpu })): (usize, &(&str, Many))| {
        vec![
            (*name).to_owned(),
            format!("{:.2}", wall.ms_min()),
            format!("{:.2}", wall.ms(0.5)),
            format!("{:.2}", wall.ms(0.9)),
            format!("{:.2}", wall.ms(0.99)),
            format!("{:.2}", cpu.ms(0.5)),
            format!("{:.2}", ratio(wall.ms(0.5), plain)),
            format!("{:.2}", ratio(wall.ms(0.5), unshared)),
            if at > 2 { format!("< {GOAL:.2}, < bwrap") } else { "-".to_owned() },
        ]
    };
    let numbers = |(name, Many { wall, cpu }): &(&str, Many)| {
        let value = json!({
            "count": wall.count(), "min_ms": wall.ms_min(), "median_ms": wall.ms(0.5),
            "p90_ms": wall.ms(0.9), "p99_ms": wall.ms(0.99), "max_ms": wall.ms_max(),
            "cpu_median_ms": cpu.ms(0.5),
        });
        ((*name).to_owned(), value)
    };
    let rounds = rows.first().map_or(0, |(_, many)| many.wall.count());
    let word = |met: bool| if met { "met" } else { "missed" };
    Measured {
        rows: rows.iter().enumerate().map(row).collect(),
        notes: vec![
            format!(
                "{rounds} interleaved rounds; ratios are of medians; goals of the median {} \
                 without control groups, {} with them; the cell has every layer on, reads its \
                 program's output and a report, and is started by root",
                word(goal(3)),
                word(goal(4))
            ),
            format!("control groups of this host: {groups}; a cell's are emptied, set and read"),
            "bwrap has no Landlock, no system-call filter, no rlimits and no report here, and does \
             not wait for its process 1, whose time is not in its CPU"
                .to_owned(),
        ],
        numbers: Value::Object(rows.iter().map(numbers).collect()),
    }
}

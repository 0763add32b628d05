//! The command line, and runs of scenarios one after another.

use crate::{
    batch, cell, edge, encode, flood, latency,
    machine::{self, Machine, Source},
    micro,
    programs::Programs,
    report::{Entry, Measured, Report},
    scenario::{Kind, Scenario, built_in},
    starts, throughput,
};
use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use hotcell_stage::clock;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Measures hotcell on this machine, and writes what it found to one report for each day and
/// machine. Only loopback; every run ends by itself.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  loadtest all                              every scenario, under 12 minutes
  loadtest all --quick                      a smoke run; its numbers mean nothing
  loadtest throughput                       the scenarios of one kind
  loadtest run loadtest/scenarios/cell.toml one scenario")]
pub struct Args {
    /// Sizes so small that everything takes under a minute.
    #[arg(long, global = true)]
    quick: bool,
    /// Folder of the report.
    #[arg(long, global = true, default_value = "loadtest/results", value_name = "DIR")]
    results: PathBuf,
    /// Folder of hotcell's programs; beside this program when absent.
    #[arg(long, global = true, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Where broker and store keep their data while they are measured: its disk matters.
    #[arg(long, global = true, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Every scenario.
    All,
    /// Jobs per second, against bare publishes on the same broker.
    Throughput,
    /// From submit to webhook at a steady rate, and CPU per job.
    Latency,
    /// Start to exit of a cell, against plain spawn, unshare and bwrap; and of thousands.
    Cell,
    /// Processor time of an encode, in and out of a cell.
    Encode,
    /// Seal, open and presign per second.
    Micro,
    /// Real encodes, against xargs ffmpeg on local files.
    Batch,
    /// How long one tenant's jobs wait for a worker, alone and beside another's flood.
    Flood,
    /// Requests per second of one intake, with every check on.
    Edge,
    /// One scenario file.
    Run {
        /// The file.
        file: PathBuf,
    },
}

impl Command {
    fn scenarios(&self) -> Result<Vec<Scenario>> {
        let of = |kind: Kind| {
            let all = built_in()?.into_iter();
            Ok(all.filter(|scenario| scenario.kind == kind).collect())
        };
        match self {
            Self::All => built_in(),
            Self::Throughput => of(Kind::Throughput),
            Self::Latency => of(Kind::Latency),
            Self::Cell => Ok([of(Kind::Cell)?, of(Kind::Starts)?].concat()),
            Self::Encode => of(Kind::Encode),
            Self::Micro => of(Kind::Micro),
            Self::Batch => of(Kind::Batch),
            Self::Flood => of(Kind::Flood),
            Self::Edge => of(Kind::Edge),
            Self::Run { file } => {
                let text = fs::read_to_string(file);
                let text = text.with_context(|| format!("cannot read {}", file.display()))?;
                Ok(vec![Scenario::parse(&text)?])
            }
        }
    }
}

/// Runs the command until it is done or interrupted; either way what it started is ended.
///
/// # Errors
/// The first run that failed; earlier ones are in the report.
pub async fn run(args: Args) -> Result<()> {
    let stopped = tokio::signal::ctrl_c();
    tokio::select! {
        result = Box::pin(run_all(args)) => result,
        _ = stopped => bail!("interrupted"),
    }
}

async fn run_all(args: Args) -> Result<()> {
    let scenarios = args.command.scenarios()?;
    let programs = Programs::find(args.programs)?;
    let dir = args.dir.unwrap_or_else(std::env::temp_dir);
    // Once: in a shared checkout the branch may move while this runs.
    let source = machine::source();
    let now = clock::now().rfc3339();
    let date = now.get(..10).unwrap_or("unknown");
    let mut report = Report::open(&args.results, Machine::read()?, date)?;
    for (index, scenario) in scenarios.iter().enumerate() {
        let scenario = if args.quick { scenario.clone().quick() } else { scenario.clone() };
        let kind = scenario.kind;
        let entry = one(&programs, source.clone(), scenario, &dir, args.quick).await?;
        report.add(entry);
        report.save(&args.results)?;
        // A kind's table is printed once, when the last of its scenarios was run.
        if scenarios.get(index + 1).is_none_or(|next| next.kind != kind) {
            print(&report.table(kind));
        }
    }
    print(&format!("report: {}", report.save(&args.results)?.display()));
    Ok(())
}

async fn one(
    programs: &Programs,
    source: Source,
    scenario: Scenario,
    dir: &Path,
    quick: bool,
) -> Result<Entry> {
    let (at, load) = (clock::now().rfc3339(), machine::load());
    let sync_ms = machine::sync_ms(dir)?;
    let measured = match scenario.kind {
        Kind::Throughput => throughput::run(programs, &scenario, dir, quick).await,
        Kind::Latency => latency::run(programs, &scenario, dir).await,
        Kind::Cell => cell::run(programs, &scenario).await,
        Kind::Starts => starts::run(programs, &scenario).await,
        Kind::Encode => encode::run(programs, &scenario, dir).await,
        Kind::Micro => micro::run(&scenario),
        Kind::Batch => batch::run(programs, &scenario, dir).await,
        Kind::Flood => flood::run(programs, &scenario, dir, quick).await,
        Kind::Edge => edge::run(programs, &scenario, dir).await,
    };
    let Measured { rows, notes, numbers } =
        measured.with_context(|| format!("scenario {}", scenario.name))?;
    let file_system = machine::file_system(&dir.canonicalize()?);
    let load = [load, machine::load()];
    let sync_ms = [sync_ms, machine::sync_ms(dir)?];
    Ok(Entry { scenario, source, at, load, sync_ms, file_system, rows, notes, numbers })
}

#[expect(clippy::print_stdout, reason = "the tables are this program's output")]
fn print(text: &str) {
    println!("{text}");
}

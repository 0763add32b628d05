//! Processor time of one encode by itself and in our cell: the same program, the same command line
//! but for its two paths.
//!
//! Promises: pairs take turns in who goes first, so that a machine that slows down favours nobody;
//! the number is the median of the pairs' ratios, and its spread is printed beside it; how many of
//! all outputs are the same bytes is told. Refuses to average: one stall of the machine would decide.
//! Where perf(1) is installed and the processor counts for us, instructions are counted too: they
//! hardly vary.

use crate::{
    cell::{Prepared, Took, in_cell, prepare, slots, spawn, timed},
    driver::bar,
    programs::Programs,
    report::Measured,
    scenario::Scenario,
    stats::{ratio, within},
};
use anyhow::{Context as _, Result, ensure};
use hotcell_jail::{cell::Cell, profile::Profile, program::sha256};
use serde_json::json;
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};
use tokio::process::Command as Spawned;

/// Most processor time in the cell, for one outside.
const GOAL: f64 = 1.01;

/// Pairs whose instructions are counted: the count of one encode varies by less than 0.1 %.
const COUNTED: u32 = 2;

/// As a plan does it: the distribution's presets, and nothing in the file that varies.
const ENCODE: &str = "-c:v libx264 -preset medium -threads:v 4 \
     -x264-params sync-lookahead=0:lookahead-threads=1 -crf 23 -pix_fmt yuv420p -g 240 \
    -c:a aac -b:a 128000 -fflags +bitexact -flags:v +bitexact -flags:a +bitexact -f mp4";

fn arguments(input: &str, output: &str) -> Vec<String> {
    let line = format!(
        "-hide_banner -nostdin -loglevel error -filter_threads 1 -f mov -threads 4 -i {input} \
         -map 0:V:0 -map 0:a:0 {ENCODE} -n {output}"
    );
    line.split_whitespace().map(str::to_owned).collect()
}

fn clip(dir: &Path, seconds: u32) -> Result<PathBuf> {
    let path = dir.join("in.mp4");
    let status = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-f", "lavfi", "-i"])
        .arg(format!("testsrc2=d={seconds}:s=854x480:r=30"))
        .args(["-f", "lavfi", "-i", &format!("sine=d={seconds}")])
        .args(["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac"])
        .arg(&path)
        .status()
        .context("cannot start ffmpeg")?;
    ensure!(status.success(), "ffmpeg made no clip");
    Ok(path)
}

/// Both ways to encode, and where they leave their output.
struct Bench {
    /// Kept for its drop.
    _root: Prepared,
    program: PathBuf,
    cell: Cell,
    dir: PathBuf,
    /// First line of what the program says of itself.
    version: String,
    /// The control groups of the cell.
    groups: String,
    /// perf(1), and the file that it writes to.
    perf: Option<(PathBuf, PathBuf)>,
}

impl Bench {
    fn new(programs: &Programs, dir: &Path, seconds: u32) -> Result<Self> {
        let root = prepare(&programs.ffmpeg()?)?;
        let program = root.root.path().join("bin").join("ffmpeg");
        let launcher = programs.path("hotcell-jail");
        let mut cell = Cell::new(&launcher, &root.root, "ffmpeg", Profile::Transcode);
        cell.inputs = vec![clip(dir, seconds)?];
        cell.args = arguments("/in/0", "/out/made");
        let (slots, groups) = slots(1)?;
        cell.slot = slots.into_iter().next();
        let counts = dir.join("perf.txt");
        let perf = find_perf(&counts).map(|perf| (perf, counts));
        let said = Command::new(&program).arg("-version").output()?.stdout;
        let said = String::from_utf8_lossy(&said);
        let version = said.lines().next().unwrap_or_default().to_owned();
        Ok(Self { _root: root, program, cell, dir: dir.to_owned(), version, groups, perf })
    }

    /// One encode by itself: how long, and the output's digest.
    async fn plain(&self, counted: bool) -> Result<(Took, String)> {
        let out = tempfile::tempdir_in(&self.dir)?;
        let made = out.path().join("made");
        let input = self.dir.join("in.mp4");
        let args = arguments(&input.display().to_string(), &made.display().to_string());
        let mut command = match &self.perf {
            Some((perf, counts)) if counted => {
                let mut command = Spawned::new(perf);
                command.args(PERF).arg(counts).arg("--").arg(&self.program);
                command
            }
            _ => Spawned::new(&self.program),
        };
        command.args(args);
        Ok((timed(spawn(command)).await?, sha256(&made)?))
    }

    /// The same in the cell.
    async fn jailed(&self, counted: bool) -> Result<(Took, String)> {
        let out = tempfile::tempdir_in(&self.dir)?;
        let mut cell = self.cell.clone();
        cell.out_dir = Some(out.path().to_owned());
        if let Some((perf, counts)) = self.perf.as_ref().filter(|_| counted) {
            let script = self.dir.join("counted");
            let (perf, counts) = (perf.display(), counts.display());
            let (words, launcher) = (PERF.join(" "), cell.launcher.display());
            let text = format!("#!/bin/sh\nexec {perf} {words} {counts} -- {launcher} \"$@\"\n");
            fs::write(&script, text)?;
            fs::set_permissions(&script, Permissions::from_mode(0o755))?;
            cell.launcher = script;
        }
        Ok((timed(in_cell(&cell)).await?, sha256(&out.path().join("made"))?))
    }

    fn instructions(&self) -> Result<f64> {
        let (_, counts) = self.perf.as_ref().context("there is no perf")?;
        instructions(counts).context("perf did not count")
    }
}

/// Arguments of perf(1) before the name of its output.
const PERF: [&str; 5] = ["stat", "-x,", "-e", "instructions", "-o"];

/// The number in `VALUE,UNIT,EVENT,...`.
fn instructions(counts: &Path) -> Option<f64> {
    let text = fs::read_to_string(counts).ok()?;
    let line = text.lines().find(|line| line.contains(",instructions"))?;
    line.split(',').next()?.parse().ok()
}

/// perf(1), if it is installed and counts.
fn find_perf(counts: &Path) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut all = std::env::split_paths(&path).map(|folder| folder.join("perf"));
    let perf = all.find(|path| path.is_file())?;
    let ran = Command::new(&perf).args(PERF).arg(counts).args(["--", "true"]).output().ok()?;
    (ran.status.success() && instructions(counts).is_some()).then_some(perf)
}

/// One side of all pairs.
#[derive(Default)]
struct Side {
    wall: Vec<f64>,
    cpu: Vec<f64>,
}

impl Side {
    fn add(&mut self, took: &Took) {
        self.wall.push(took.wall.as_secs_f64());
        self.cpu.push(took.cpu.as_secs_f64());
    }
}

/// Median processor instructions of each side, in the cell last; `None` where nobody counts them.
async fn count(bench: &Bench, pairs: u32) -> Result<Option<[f64; 2]>> {
    if bench.perf.is_none() {
        return Ok(None);
    }
    let (mut plain, mut jailed) = (Vec::new(), Vec::new());
    for _ in 0..pairs {
        bench.plain(true).await?;
        plain.push(bench.instructions()?);
        bench.jailed(true).await?;
        jailed.push(bench.instructions()?);
    }
    Ok(Some([within(&plain, 0.5), within(&jailed, 0.5)]))
}

/// Runs the scenario.
pub(crate) async fn run(programs: &Programs, scenario: &Scenario, dir: &Path) -> Result<Measured> {
    let work = tempfile::Builder::new().prefix("hotcell-encode-").tempdir_in(dir)?;
    let bench = Bench::new(programs, work.path(), scenario.seconds)?;
    // Page cache, and what else is slow once.
    let (_, expect) = bench.plain(false).await?;
    bench.jailed(false).await?;
    let (mut plain, mut jailed, mut ratios) = (Side::default(), Side::default(), Vec::new());
    let mut same = 0;
    let progress = bar(u64::from(scenario.jobs), &scenario.name)?;
    for pair in 0..scenario.jobs {
        let (a, b) = if pair % 2 == 0 {
            let a = bench.plain(false).await?;
            (a, bench.jailed(false).await?)
        } else {
            let b = bench.jailed(false).await?;
            (bench.plain(false).await?, b)
        };
        same += u32::from(a.1 == expect) + u32::from(b.1 == expect);
        ratios.push(ratio(b.0.cpu.as_secs_f64(), a.0.cpu.as_secs_f64()));
        plain.add(&a.0);
        jailed.add(&b.0);
        progress.inc(1);
    }
    let counted = count(&bench, COUNTED.min(scenario.jobs)).await?;
    progress.finish_and_clear();
    Ok(measured(scenario, &bench, [&plain, &jailed], &ratios, same, counted))
}

fn measured(
    scenario: &Scenario,
    bench: &Bench,
    sides: [&Side; 2],
    ratios: &[f64],
    same: u32,
    counted: Option<[f64; 2]>,
) -> Measured {
    let at = |share: f64| within(ratios, share);
    let row = |name: &str, side: &Side, last: [String; 4]| {
        let medians = [within(&side.wall, 0.5), within(&side.cpu, 0.5)];
        let medians = medians.map(|median| format!("{median:.2}"));
        [name.to_owned()].into_iter().chain(medians).chain(last).collect()
    };
    let [plain, jailed] = sides;
    let spread = |low: f64, high: f64| format!("{:.4} to {:.4}", at(low), at(high));
    let ours =
        [format!("{:.4}", at(0.5)), spread(0.25, 0.75), spread(0.0, 1.0), format!("<= {GOAL}")];
    let none = || "-".to_owned();
    let told = match counted {
        Some([plain, jailed]) => format!(
            "instructions, counted by perf(1) in {} more pairs: {:.3} billion by itself, {:.3} \
             billion in the cell with its launcher, ratio {:.4}",
            COUNTED.min(scenario.jobs),
            plain / 1e9,
            jailed / 1e9,
            ratio(jailed, plain)
        ),
        None => "no perf(1) that counts instructions is installed here".to_owned(),
    };
    let (line, met) = (arguments("IN", "OUT").join(" "), at(0.5) <= GOAL);
    Measured {
        rows: vec![
            row("by itself", plain, ["1.0000".to_owned(), none(), none(), none()]),
            row("in the cell", jailed, ours),
        ],
        notes: vec![
            format!(
                "{} pairs, taking turns in who is first, of a clip of {} s of 854x480; CPU has the \
                 launcher's too; the cell is in control groups ({}); the ratio is the median of \
                 the pairs', goal {}; {same} of {} outputs are the same bytes as the first (with \
                 several threads libx264's are not always)",
                ratios.len(),
                scenario.seconds,
                bench.groups,
                if met { "met" } else { "missed" },
                2 * ratios.len()
            ),
            told,
            format!("command of both: ffmpeg {line}; {}", bench.version),
        ],
        numbers: json!({
            "pairs": ratios.len(), "cpu_ratio_median": at(0.5), "cpu_ratios": ratios,
            "goal": GOAL, "cpu_s": [plain.cpu, jailed.cpu], "wall_s": [plain.wall, jailed.wall],
            "instructions": counted, "same_outputs": same,
        }),
    }
}

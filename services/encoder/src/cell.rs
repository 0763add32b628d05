//! Running the two programs in their cells. The only file of this crate that starts anything, and
//! it starts nothing but the launcher.
//!
//! Promises: a command line has only constants of the plan and the two in-cell paths. Refuses to
//! read more of the program's output than its limits, and never lets it wait for a reader.

use crate::{
    ending::{reported, violation},
    image::Image,
    probe::{self, ProbeError},
    progress::Progress,
};
use hotcell_jail::{
    Identity,
    capture::Stdout,
    cell::{Cell, CellError, Outcome, run},
    cgroup::Slot,
    limits::CellLimits as JailLimits,
    profile::Profile,
    program::{Version, VersionError},
};
use hotcell_schemas::{
    FileName,
    argv::{self, INPUT, OUTPUT},
    plan::{CellLimits, Container, Plan},
    report::{CellUse, Probe},
};
use hotcell_stage::Shutdown;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::{Notify, mpsc};

/// Lines of progress that wait to be read; FFmpeg writes twelve each second.
const LINES_MAX: usize = 64;

/// One cell that ended.
#[derive(Debug)]
pub(crate) struct Ran {
    /// What goes into the report.
    pub(crate) usage: CellUse,
    /// Everything else that the launcher said.
    pub(crate) outcome: Outcome,
}

/// The programs, ready to run.
#[derive(Debug, Clone)]
pub(crate) struct Cells {
    launcher: PathBuf,
    image: Image,
    seat: Option<Seat>,
    degraded: bool,
}

/// What is one slot's own.
#[derive(Debug, Clone)]
pub(crate) struct Seat {
    /// Who its cells are on the host.
    pub(crate) identity: Identity,
    /// Their control groups.
    pub(crate) slot: Arc<Slot>,
}

impl Cells {
    /// Programs whose cells do without what the host lacks, if `degraded`.
    pub(crate) fn new(launcher: PathBuf, image: Image, degraded: bool) -> Self {
        Self { launcher, image, seat: None, degraded }
    }

    /// The same programs in the place of one slot.
    pub(crate) fn at(&self, seat: Seat) -> Self {
        Self { seat: Some(seat), ..self.clone() }
    }

    /// What `ffmpeg -version` says, asked in a cell: also the proof that cells work here.
    pub(crate) async fn version(&self) -> Result<Version, VersionError> {
        let (root, ffmpeg) = (&self.image.root, &self.image.ffmpeg);
        let mut cell = Cell::new(&self.launcher, root, &ffmpeg.name, Profile::Probe);
        cell.degraded = self.degraded;
        ffmpeg.version_in(cell).await
    }

    /// Probes `file`, which is of `container`.
    pub(crate) async fn probe(
        &self,
        file: &Path,
        container: Container,
        limits: &CellLimits,
        stop: &Shutdown,
    ) -> Result<(Ran, Result<Probe, ProbeError>), CellError> {
        let name = &self.image.ffprobe.name;
        let mut cell = self.cell(name, Profile::Probe, limits);
        cell.args = fill(&argv::ffprobe_argv(container), None);
        cell.inputs = vec![file.to_owned()];
        let outcome = run(&cell, &stop.token(), Stdout::Bytes(probe::PROBE_BYTES_MAX)).await?;
        let answer = match outcome.stdout.cut {
            true => Err(ProbeError::Long),
            false => probe::parse(&outcome.stdout.bytes),
        };
        Ok((ran(outcome), answer))
    }

    /// Encodes `input` into `out`; `note` hears of progress.
    pub(crate) async fn encode(
        &self,
        plan: &Plan,
        paths: (&Path, &Path),
        duration_ms: Option<u64>,
        stop: &Shutdown,
        note: impl Fn(Option<u16>),
    ) -> Result<Ran, CellError> {
        let (input, out) = paths;
        let mut cell = self.cell(&self.image.ffmpeg.name, Profile::Transcode, &plan.limits);
        cell.args = fill(&plan.argv, plan.outputs.first().map(|output| &output.name));
        cell.inputs = vec![input.to_owned()];
        cell.out_dir = Some(out.to_owned());

        let (sender, mut lines) = mpsc::channel(LINES_MAX);
        let mut progress = Progress::new(duration_ms);
        let pulse = Arc::new(Notify::new());
        cell.pulse = Some(Arc::clone(&pulse));
        let token = stop.token();
        let mut work = Box::pin(run(&cell, &token, Stdout::Lines(sender)));
        loop {
            tokio::select! {
                outcome = &mut work => return Ok(ran(outcome?)),
                Some(line) = lines.recv() => {
                    if progress.advances(&line) {
                        pulse.notify_one();
                    }
                    note(progress.line(&line));
                }
            }
        }
    }

    fn cell(&self, program: &str, profile: Profile, limits: &CellLimits) -> Cell {
        let mut cell = Cell::new(&self.launcher, &self.image.root, program, profile);
        cell.degraded = self.degraded;
        cell.limits = JailLimits {
            memory_bytes: limits.memory_bytes,
            cpu_secs: u64::from(limits.cpu_secs),
            wall_secs: u64::from(limits.wall_secs),
            output_bytes: limits.output_bytes,
            procs: u64::from(limits.procs),
            tmp_bytes: limits.temp_bytes,
            nofile: JailLimits::of(profile).nofile,
            stall_secs: u64::from(limits.stall_secs),
            files: u64::from(limits.files),
        };
        if let Some(seat) = &self.seat {
            cell.identity = seat.identity;
            cell.slot = Some(Arc::clone(&seat.slot));
        }
        cell
    }
}

/// The command line with in-cell paths in place of the placeholders. Only whole tokens count.
fn fill(argv: &[String], output: Option<&FileName>) -> Vec<String> {
    let one = |token: &String| match (token.as_str(), output) {
        (INPUT, _) => "/in/0".to_owned(),
        (OUTPUT, Some(name)) => format!("/out/{name}"),
        _ => token.clone(),
    };
    argv.iter().map(one).collect()
}

fn ran(outcome: Outcome) -> Ran {
    let end = reported(&outcome.end);
    let usage = CellUse {
        end,
        cpu_ms: outcome.cpu_ms,
        memory_bytes_max: outcome.max_rss_bytes,
        wall_ms: outcome.wall_ms,
        bytes_in: outcome.bytes_in,
        bytes_out: outcome.bytes_out,
        violation: violation(end, outcome.violation.as_deref()),
    };
    Ran { usage, outcome }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_tokens_are_placeholders() {
        let argv = ["-i", INPUT, "x{in0}", OUTPUT, "{out0}.mp4"].map(str::to_owned);
        let name = "a.mp4".parse().unwrap();
        let expect = ["-i", "/in/0", "x{in0}", "/out/a.mp4", "{out0}.mp4"].map(str::to_owned);
        assert_eq!(fill(&argv, Some(&name)), expect);
    }
}

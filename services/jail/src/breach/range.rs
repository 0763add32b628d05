//! Where attacks are run: real cells, as an encoder starts them, with the hostile program in ffmpeg's place.
//!
//! Promises: each attack gets a fresh cell with an input and an output folder of its own, which are gone afterwards.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use super::judge::{STDOUT_BYTES_MAX, Seen, judge};
use super::{Attack, BreachError, LIMITS, Plant, Proof, Verdict};
use crate::capture::Stdout;
use crate::cell::{Cell, End, Outcome, run};
use crate::cgroup::Slot;
use crate::layers::Layer;
use crate::plan::Identity;
use crate::profile::Profile;
use crate::root::Root;

/// The name of the hostile program in its root.
const PROGRAM: &str = "hotcell-hostile";

/// A place for attacks.
#[derive(Debug)]
pub struct Range {
    /// The launcher.
    pub launcher: PathBuf,
    /// A root with the hostile program.
    pub root: Root,
    /// Who the cells are on the host.
    pub identity: Identity,
    /// What there is to be found.
    pub plant: Plant,
    /// Whether cells may do without what this host lacks.
    pub degraded: bool,
    /// Control groups, one for each attack that runs at once; when none is free, an attack runs without. They count as
    /// part of the layer `limits`.
    pub slots: Mutex<Vec<Arc<Slot>>>,
}

impl Range {
    /// Runs one attack in a fresh cell, without the layers in `off`.
    ///
    /// # Errors
    /// [`BreachError`] when there was no cell, so that nothing was tried.
    pub async fn attack(&self, attack: &Attack, off: &[Layer]) -> Result<Verdict, BreachError> {
        let mut verdict = None;
        for template in attack.args.split(" then ") {
            let marker = self.marker();
            let outcome = self.outcome(attack, template, &marker, off).await?;
            let survivor = attack.proof == Proof::Survivor && end_survivors(&marker);
            let seen = Seen { outcome: &outcome, survivor, canary: self.plant.canary() };
            verdict = Some(judge(attack, &seen));
        }
        verdict.ok_or_else(|| BreachError::Refused("it does nothing".to_owned()))
    }

    async fn outcome(
        &self,
        attack: &Attack,
        template: &str,
        marker: &str,
        off: &[Layer],
    ) -> Result<Outcome, BreachError> {
        let failed = |error| BreachError::Plant("a job", error);
        let job = self.plant.folder().join(marker);
        let (input, out) = (job.join("in"), job.join("out"));
        fs::create_dir_all(&out).map_err(failed)?;
        fs::copy(self.plant.folder().join("program"), &input).map_err(failed)?;
        let mut cell = self.cell(off);
        let at = if off.contains(&Layer::Root) { self.root.path() } else { "".as_ref() };
        cell.args = self.plant.fill(template, &at.display().to_string(), marker);
        if attack.proof == Proof::Survivor {
            cell.args.push(marker.to_owned());
        }
        (cell.inputs, cell.out_dir) = (vec![input], Some(out));
        if !off.contains(&Layer::Limits) {
            cell.slot = self.slots.lock().unwrap_or_else(PoisonError::into_inner).pop();
        }
        let outcome = run(&cell, &CancellationToken::new(), Stdout::Bytes(STDOUT_BYTES_MAX)).await;
        if let Some(slot) = cell.slot.take() {
            self.slots.lock().unwrap_or_else(PoisonError::into_inner).push(slot);
        }
        fs::remove_dir_all(&job).map_err(failed)?;
        match outcome? {
            Outcome { end: End::LauncherRefused(why), .. } => Err(BreachError::Refused(why)),
            outcome => Ok(outcome),
        }
    }

    fn cell(&self, off: &[Layer]) -> Cell {
        let mut cell = Cell::new(&self.launcher, &self.root, PROGRAM, Profile::Transcode);
        cell.limits = LIMITS;
        cell.identity = self.identity;
        if off.contains(&Layer::User) {
            cell.identity = Identity { uid: 0, gid: 0 };
        }
        (cell.layers_off, cell.degraded) = (off.to_vec(), self.degraded || !off.is_empty());
        cell
    }

    /// For attacks whose defence has no switch: the same without a cell. True if it works.
    ///
    /// # Errors
    /// [`BreachError::Plant`] when the program cannot be started.
    pub fn outside(&self, attack: &Attack) -> Result<bool, BreachError> {
        let failed = |error| BreachError::Plant("a process", error);
        let program = self.plant.folder().join("neighbour");
        let marker = self.marker();
        let job = self.plant.folder().join(&marker);
        for folder in ["out", "tmp"] {
            fs::create_dir_all(job.join(folder)).map_err(failed)?;
        }
        let (mut worked, mut last) = (false, None);
        for template in attack.args.split(" then ") {
            let args = self.plant.fill(template, &job.display().to_string(), &marker);
            let output = if attack.proof == Proof::Terminal {
                // script(1) gives it a terminal of its own.
                let line = format!("{} {}", program.display(), args.join(" "));
                Command::new("script").args(["-qec", &line, "/dev/null"]).output()
            } else {
                Command::new(&program).args(args).output()
            };
            last = Some(output.map_err(failed)?);
        }
        if let Some(output) = last {
            let flood = output.stdout.len().max(output.stderr.len()) > STDOUT_BYTES_MAX;
            worked = output.status.success() && (attack.proof != Proof::Flood || flood);
        }
        fs::remove_dir_all(&job).map_err(failed)?;
        Ok(worked)
    }

    fn marker(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        format!("job-{}-{number}", std::process::id())
    }
}

/// Whether a process with this argument is left; it is ended.
fn end_survivors(marker: &str) -> bool {
    let mut found = false;
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(pid) = number.and_then(rustix::process::Pid::from_raw)
            && line.split(|byte| *byte == 0).any(|word| word == marker.as_bytes())
        {
            // If it ends by itself just now, that is well.
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
            found = true;
        }
    }
    found
}

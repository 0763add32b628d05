//! One cell, from the supervisor's side: start the launcher, feed its output through bounded readers, end it in time.
//!
//! Promises: [`run`] returns after everything in the cell is gone (both pipes have ended, which needs every process to
//! be dead), at the latest a few seconds after the wall clock. When the future is dropped, or this process dies, the
//! cell dies too, because the control socket closes. Refuses to believe anything about the end that the payload said.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Gid, Uid, chownat, statat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::capture::{self, Captured, Stderr, Stdout};
pub use crate::cgroup::CgroupVersion;
use crate::cgroup::{GroupError, Slot, Used};
use crate::layers::Layer;
use crate::limits::{CellLimits, GRACE_SECS, REPORT_BYTES_MAX};
use crate::plan::{Identity, Plan};
use crate::profile::Profile;
pub use crate::report::End;
use crate::report::Report;
use crate::root::Root;

const GRACE: Duration = Duration::from_secs(GRACE_SECS);

/// Everything about one run of one program.
#[derive(Debug, Clone)]
pub struct Cell {
    /// The `hotcell-jail` program.
    pub launcher: PathBuf,
    /// The file tree that the payload sees.
    pub root: Root,
    /// Name of the program in the root, for example `ffmpeg`.
    pub program: String,
    /// Its arguments. Inputs are `/in/0`, `/in/1`, ...; outputs go to `/out/NAME`. No secrets: argv is public.
    pub args: Vec<String>,
    /// Which system calls it may make.
    pub profile: Profile,
    /// Regular files on the host, read-only in the cell, in this order.
    pub inputs: Vec<PathBuf>,
    /// A folder on the host that is `/out` in the cell.
    pub out_dir: Option<PathBuf>,
    /// What it may use.
    pub limits: CellLimits,
    /// Where its control groups are; without, only rlimits bound it. Runs one cell at a time.
    pub slot: Option<Arc<Slot>>,
    /// Notified by the supervisor whenever the payload got on; with it, `limits.stall_secs` counts.
    pub pulse: Option<Arc<Notify>>,
    /// Who it is on the host. When this process is root, inputs and `out_dir` are handed to this user first.
    pub identity: Identity,
    /// For tests: defences to leave out. The launcher refuses them without `degraded`.
    pub layers_off: Vec<Layer>,
    /// For tests: accept `layers_off`, and say so in the outcome.
    pub degraded: bool,
}

/// How it went. Serialisable, so that it can be evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// How the payload ended.
    pub end: End,
    /// User and system time of everything in the cell.
    pub cpu_ms: u64,
    /// Most memory at once: what its control group counted (page cache and kernel memory too), or the largest resident
    /// set of one process, whichever is more.
    pub max_rss_bytes: u64,
    /// From the first process of the cell to the last.
    pub wall_ms: u64,
    /// Size of all inputs together.
    pub bytes_in: u64,
    /// What the output folder held at the end.
    pub bytes_out: u64,
    /// Name of the system call that ended the payload; `unknown` when only the signal is known.
    pub violation: Option<String>,
    /// Which control groups bounded the cell; `None` when only rlimits did.
    pub cgroup: Option<CgroupVersion>,
    /// SHA-256 of the system-call profile; empty if nothing was started.
    pub profile_hash: String,
    /// The Landlock ABI of the host; 0 if nothing was started.
    pub landlock_abi: u32,
    /// Layers that were off; empty in production.
    pub degraded: Vec<Layer>,
    /// What the payload wrote to standard error.
    pub stderr: Stderr,
    /// What it wrote to standard output, if [`Stdout::Bytes`] asked for it.
    #[serde(skip)]
    pub stdout: Captured,
}

impl Outcome {
    /// Whether the payload exited with code 0 and every layer was on.
    #[must_use]
    pub fn is_clean_success(&self) -> bool {
        self.end == End::Exited(0) && self.degraded.is_empty()
    }
}

/// What went wrong with us; what went wrong with the payload is an [`Outcome`].
#[derive(Debug, Error)]
pub enum CellError {
    /// An input or the output folder could not be handed to the cell's user.
    #[error("cannot hand a file to the cell's user")]
    Lend(#[source] Errno),
    /// Its control groups could not be made ready, or emptied.
    #[error("cannot use the slot's control groups")]
    Group(#[from] GroupError),
    /// No socket pair, or no process.
    #[error("cannot start the launcher")]
    Spawn(#[source] io::Error),
    /// The launcher could not be waited for.
    #[error("cannot wait for the launcher")]
    Wait(#[source] io::Error),
    /// The launcher died, for example because somebody killed it. The cell died with it.
    #[error("the launcher ended without a report (exit code {code:?}, signal {signal:?})")]
    NoReport {
        /// Its exit code.
        code: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
    },
}

impl Cell {
    /// A cell with the defaults of its profile, this process's identity (or `nobody`), no inputs and no output.
    #[must_use]
    pub fn new(launcher: &Path, root: &Root, program: &str, profile: Profile) -> Self {
        Self {
            launcher: launcher.to_owned(),
            root: root.clone(),
            program: program.to_owned(),
            args: Vec::new(),
            profile,
            inputs: Vec::new(),
            out_dir: None,
            limits: CellLimits::of(profile),
            slot: None,
            pulse: None,
            identity: Identity::for_this_process(),
            layers_off: Vec::new(),
            degraded: false,
        }
    }

    fn plan(&self, cgroup: Option<PathBuf>) -> Plan {
        let program = OsString::from(format!("/bin/{}", self.program));
        Plan {
            root: self.root.path().to_owned(),
            profile: self.profile,
            inputs: self.inputs.clone(),
            out_dir: self.out_dir.clone(),
            identity: self.identity,
            limits: self.slot.as_ref().map_or(self.limits, |slot| slot.rlimits(self.limits)),
            cgroup,
            layers_off: self.layers_off.clone(),
            degraded: self.degraded,
            argv: [program].into_iter().chain(self.args.iter().map(OsString::from)).collect(),
        }
    }

    /// As root: the cell's user owns what it must reach. Otherwise it is this process's user already. Returns the size
    /// of the inputs.
    fn lend(&self) -> Result<u64, Errno> {
        let as_root = rustix::process::geteuid().is_root();
        let Identity { uid, gid } = self.identity;
        // Never the target of a link: the launcher refuses links anyway.
        let itself = AtFlags::SYMLINK_NOFOLLOW;
        let lend = |path: &PathBuf| {
            let stat = statat(CWD, path, itself)?;
            if as_root && stat.st_uid != uid {
                chownat(CWD, path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), itself)?;
            }
            Ok(u64::try_from(stat.st_size).unwrap_or(0))
        };
        self.out_dir.iter().try_for_each(|path| lend(path).map(|_| ()))?;
        self.inputs.iter().map(lend).sum()
    }
}

/// Runs one cell to its end. Cancelling kills everything in it at once; there is no polite way.
///
/// # Errors
/// [`CellError`], when the launcher could not be started or died; never for what the payload did.
pub async fn run(
    cell: &Cell,
    cancel: &CancellationToken,
    stdout: Stdout,
) -> Result<Outcome, CellError> {
    let bytes_in = cell.lend().map_err(CellError::Lend)?;
    let Some(slot) = cell.slot.as_deref() else {
        let ended = attend(cell, None, cancel, stdout).await?;
        return ended.outcome(bytes_in, Used::default(), None);
    };
    let held = slot.hold(&cell.limits).await?;
    let ended = attend(cell, Some((slot, held.group())), cancel, stdout).await?;
    let used = held.end().await?;
    ended.outcome(bytes_in, used, slot.version())
}

/// A launcher that is gone, and what is known of it.
struct Ended {
    status: ExitStatus,
    stdout: Captured,
    stderr: Stderr,
    report: Option<Report>,
    /// Why this side ended the cell, if it did.
    why: Option<End>,
}

async fn attend(
    cell: &Cell,
    slot: Option<(&Slot, Option<PathBuf>)>,
    cancel: &CancellationToken,
    stdout: Stdout,
) -> Result<Ended, CellError> {
    let (mut child, control) = spawn(cell, slot).await.map_err(CellError::Spawn)?;
    let missing = || CellError::Spawn(io::ErrorKind::BrokenPipe.into());
    let out = child.stdout.take().ok_or_else(missing)?;
    let err = child.stderr.take().ok_or_else(missing)?;
    let (report, lifeline) = control.into_split();

    let (stop, flood) = (CancellationToken::new(), CancellationToken::new());
    let mut readers = Box::pin(async {
        let report = async {
            let report = read_report(report).await;
            if report.as_ref().is_some_and(|report| report.end.was_ours()) {
                stop.cancel();
            }
            report
        };
        let (out, err) =
            (capture::stdout(out, stdout, &stop, &flood), capture::stderr(err, &flood));
        tokio::join!(out, err, report)
    });
    // The launcher keeps the wall clock. If it does not answer in time, it is killed, and its cell with it.
    let wall = Duration::from_secs(cell.limits.wall_secs).saturating_add(GRACE);
    let (now, mut lifeline, mut why) = (Instant::now(), Some(lifeline), None);
    let mut deadline = now.checked_add(wall).unwrap_or(now);
    let mut stalled = std::pin::pin!(stall(cell));
    let (stdout, stderr, report) = loop {
        let asked = tokio::select! {
            read = &mut readers => break read,
            () = cancel.cancelled(), if lifeline.is_some() => End::Cancelled,
            () = &mut stalled, if lifeline.is_some() => End::Stalled,
            () = flood.cancelled(), if lifeline.is_some() => End::OutputLimit,
            () = sleep_until(deadline) => {
                why = why.or(Some(End::WallClock));
                stop.cancel();
                child.start_kill().map_err(CellError::Wait)?;
                // With the cell dead, all pipes end.
                break timeout(GRACE, readers).await.unwrap_or_default();
            }
        };
        // Closing our half is the request; the report still comes back.
        drop(lifeline.take());
        why = Some(asked);
        deadline = deadline.min(Instant::now() + GRACE);
    };
    let waited = timeout(GRACE, child.wait()).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()));
    Ok(Ended { status: waited.map_err(CellError::Wait)?, stdout, stderr, report, why })
}

/// Returns when the payload has not got on for the limit's time; never where nobody would say so.
async fn stall(cell: &Cell) {
    let Some(pulse) = &cell.pulse else { return std::future::pending().await };
    let patience = Duration::from_secs(cell.limits.stall_secs);
    while timeout(patience, pulse.notified()).await.is_ok() {}
}

async fn spawn(
    cell: &Cell,
    slot: Option<(&Slot, Option<PathBuf>)>,
) -> io::Result<(Child, UnixStream)> {
    // The far end becomes the launcher's standard input; all else is close-on-exec, so no other child holds it.
    let (near, far) = StdUnixStream::pair()?;
    near.set_nonblocking(true)?;
    let (slot, group) = slot.unzip();
    let mut command = Command::new(&cell.launcher);
    if !cell.layers_off.contains(&Layer::Spawn) {
        command.env_clear();
    }
    command
        .args(cell.plan(group.flatten()).render())
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(far)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = match slot {
        Some(slot) => slot.spawn(command).await?,
        None => command.spawn()?,
    };
    Ok((child, UnixStream::from_std(near)?))
}

async fn read_report(from: impl tokio::io::AsyncRead + Unpin) -> Option<Report> {
    let mut line = Vec::new();
    from.take(REPORT_BYTES_MAX).read_to_end(&mut line).await.ok()?;
    serde_json::from_slice(&line).ok()
}

impl Ended {
    fn outcome(
        self,
        bytes_in: u64,
        used: Used,
        cgroup: Option<CgroupVersion>,
    ) -> Result<Outcome, CellError> {
        use std::os::unix::process::ExitStatusExt;
        let Self { status, stdout, stderr, report, why } = self;
        let (code, signal) = (status.code(), status.signal());
        // The launcher is small, and the last of the group that the kernel kills; but it may.
        let why = why.or_else(|| (used.oom_kills > 0).then_some(End::Memory));
        let end = match (&report, why) {
            (Some(Report { end: End::Cancelled, .. }) | None, Some(why)) => why,
            (Some(report), _) => used.name(report.end.clone()),
            (None, None) => return Err(CellError::NoReport { code, signal }),
        };
        let report = report.unwrap_or_else(|| Report::refused(String::new()));
        let max_rss_bytes = report.max_rss_kib.saturating_mul(1024);
        Ok(Outcome {
            end,
            cpu_ms: report.cpu_ms.max(used.cpu_ms.unwrap_or(0)),
            max_rss_bytes: used.memory_peak.map_or(max_rss_bytes, |peak| peak.max(max_rss_bytes)),
            wall_ms: report.wall_ms,
            bytes_in,
            bytes_out: report.bytes_out,
            violation: report.violation,
            cgroup,
            profile_hash: report.profile_hash,
            landlock_abi: report.landlock_abi,
            degraded: report.degraded,
            stderr,
            stdout,
        })
    }
}

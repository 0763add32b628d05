//! Can this host run cells?
//!
//! Promises: every answer comes from trying the thing, in a process of its own. Refuses to guess from versions.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::launcher::sentence;
use crate::layers::{Layer, Offered, Unfit};
use crate::plan::Identity;
use crate::profile::{Profile, ProfileError};
use crate::{cores, inside, mounts, namespaces, sys};

/// The answer is one line of JSON with at most one sentence in it.
const ANSWER_BYTES_MAX: u64 = 4096;

/// What this host offers to cells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preflight {
    /// Release of the running kernel.
    pub kernel: String,
    /// Layers, as the kernel reports them. Other namespaces are not listed: without them there is no `Preflight`.
    pub offered: Offered,
    /// What it lacks; empty on a host that is fit. A cell starts without these only if it is degraded.
    pub missing: Vec<Missing>,
}

/// A layer that a host lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// The layer.
    pub layer: Layer,
    /// One sentence that says what to change.
    pub change: String,
}

/// Why this host cannot run cells, or why nobody knows.
#[derive(Debug, Error)]
pub enum PreflightError {
    /// One sentence that says what to change.
    #[error("{0}")]
    Unfit(String),
    /// The launcher is missing, or not executable.
    #[error("cannot start the launcher {0}")]
    Spawn(String, #[source] io::Error),
    /// The launcher did not answer as this version does.
    #[error("the launcher did not answer: is it of this version")]
    Answer(#[source] io::Error),
}

/// Whether this host is fit: [`inspect`], and nothing is missing.
///
/// # Errors
/// As [`inspect`]; [`PreflightError::Unfit`] also for a layer that is missing.
pub fn preflight(launcher: &Path) -> Result<Preflight, PreflightError> {
    let found = inspect(launcher)?;
    match found.missing.first() {
        Some(missing) => Err(PreflightError::Unfit(missing.change.clone())),
        None => Ok(found),
    }
}

/// Asks the launcher, which tries everything and returns within milliseconds; for who may do without what is missing.
/// Blocks; for start-up.
///
/// # Errors
/// [`PreflightError::Unfit`] with one sentence saying what to change, when no cell can start here, not even a degraded
/// one; the others when the launcher itself is missing.
pub fn inspect(launcher: &Path) -> Result<Preflight, PreflightError> {
    let named = || launcher.display().to_string();
    let mut child = Command::new(launcher)
        .arg("--preflight")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| PreflightError::Spawn(named(), error))?;
    let mut bytes = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes).map_err(PreflightError::Answer)?;
    }
    child.wait().map_err(PreflightError::Answer)?;
    let answer: Result<Preflight, String> = serde_json::from_slice(&bytes)
        .map_err(|error| PreflightError::Answer(io::Error::from(error)))?;
    answer.map_err(PreflightError::Unfit)
}

/// The launcher's side: prints the answer; returns the exit code.
pub(crate) fn answer() -> u8 {
    let answer = try_all();
    let fit = answer.as_ref().is_ok_and(|found| found.missing.is_empty());
    let code = if fit { 0 } else { inside::REFUSED };
    let line = serde_json::to_string(&answer).unwrap_or_default();
    match writeln!(io::stdout(), "{line}") {
        Ok(()) => code,
        Err(_) => inside::REFUSED,
    }
}

fn try_all() -> Result<Preflight, String> {
    let identity = Identity::for_this_process();
    let offered = Offered::here(Some(identity));
    let compiles = |profile: Profile| profile.filters().map(|_| ());
    let compiled: Result<(), ProfileError> =
        compiles(Profile::Probe).and_then(|()| compiles(Profile::Transcode));
    compiled.map_err(|error| sentence(&error))?;
    cores::stay_in().map_err(|error| sentence(&error))?;
    let missing = offered.missing();
    let off: Vec<Layer> = missing.iter().map(|(layer, _)| *layer).collect();
    // Read while the host's settings can be seen.
    let change = |unfit: &Unfit| format!("{}{}", sentence(unfit), knobs(unfit));
    let missing =
        missing.iter().map(|(layer, unfit)| Missing { layer: *layer, change: change(unfit) });
    let missing: Vec<Missing> = missing.collect();
    // This process has nothing to lose, so it enters the namespaces itself. A fork shows that process 1 can start.
    namespaces::enter(identity, &off).map_err(|error| sentence(&error))?;
    let failed = |error: io::Error| sentence(&error);
    let (said, mut say) = io::pipe().map_err(failed)?;
    match sys::fork().map_err(failed)? {
        None => {
            let why = rehearse().err().unwrap_or_default();
            // Shorter than a pipe holds; without it the exit code still says no.
            drop(say.write_all(why.as_bytes()));
            sys::exit_now(u8::from(!why.is_empty()))
        }
        Some(pid) => {
            drop(say);
            let reaped = sys::reap(pid).map_err(failed)?;
            let mut why = String::new();
            said.take(ANSWER_BYTES_MAX).read_to_string(&mut why).map_err(failed)?;
            if !reaped.status.success() {
                return Err(why);
            }
        }
    }
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    Ok(Preflight { kernel, offered, missing })
}

/// What process 1 does before it gives up its rights; a container's filter may refuse any of it.
fn rehearse() -> Result<(), String> {
    namespaces::enter_groups()
        .map_err(|_| "cgroup namespaces are not available: run Linux 4.6 or later".to_owned())?;
    let advice = "in a container use the seccomp profile of docs/containers.md, and no AppArmor profile that denies mount";
    mounts::rehearse().map_err(|error| format!("{}: {advice}", sentence(&error)))?;
    rustix::system::sethostname(b"cell")
        .map_err(|error| format!("cannot name the cell: {error}: {advice}"))
}

/// Which setting of this host is at fault, where one can be read.
fn knobs(unfit: &Unfit) -> String {
    /// With the value that forbids.
    const KNOBS: [(&str, &str); 3] = [
        ("user/max_user_namespaces", "0"),
        ("kernel/unprivileged_userns_clone", "0"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1"),
    ];
    if *unfit != Unfit::UserNamespace {
        return String::new();
    }
    let set = |(name, bad): &(&str, &str)| {
        let value = std::fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?;
        (value.trim() == *bad).then(|| format!(" (here {} is {bad})", name.replace('/', ".")))
    };
    KNOBS.iter().find_map(set).unwrap_or_default()
}

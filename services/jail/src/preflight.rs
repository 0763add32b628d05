//! Can this host run cells?
//!
//! Promises: every answer comes from trying the thing, in a process of its own. Refuses to guess from versions.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::launcher::sentence;
use crate::layers::{Offered, decide};
use crate::plan::Identity;
use crate::profile::{Profile, ProfileError};
use crate::{inside, namespaces, sys};

/// The answer is one line of JSON with at most one sentence in it.
const ANSWER_BYTES_MAX: u64 = 4096;

/// What this host offers to cells; all that is needed is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preflight {
    /// Release of the running kernel.
    pub kernel: String,
    /// Layers, as the kernel reports them. Namespaces are not listed: without them there is no `Preflight`.
    pub offered: Offered,
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

/// Asks the launcher, which tries everything and returns within milliseconds. Blocks; for start-up.
///
/// # Errors
/// [`PreflightError::Unfit`] with one sentence saying what to change; the others when the launcher itself is missing.
pub fn preflight(launcher: &Path) -> Result<Preflight, PreflightError> {
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
    let code = if answer.is_ok() { 0 } else { inside::REFUSED };
    let line = serde_json::to_string(&answer).unwrap_or_default();
    match writeln!(io::stdout(), "{line}") {
        Ok(()) => code,
        Err(_) => inside::REFUSED,
    }
}

fn try_all() -> Result<Preflight, String> {
    let offered = Offered::here();
    decide(offered, &[], false).map_err(|unfit| sentence(&unfit))?;
    let compiles = |profile: Profile| profile.filters().map(|_| ());
    let compiled: Result<(), ProfileError> =
        compiles(Profile::Probe).and_then(|()| compiles(Profile::Transcode));
    compiled.map_err(|error| sentence(&error))?;
    // This process has nothing to lose, so it enters the namespaces itself. A fork shows that process 1 can start.
    namespaces::enter(Identity::for_this_process(), true).map_err(|error| sentence(&error))?;
    match sys::fork().map_err(|error| sentence(&error))? {
        None => sys::exit_now(0),
        Some(pid) => sys::reap(pid).map_err(|error| sentence(&error))?,
    };
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    Ok(Preflight { kernel, offered })
}

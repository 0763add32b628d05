//! Two installations on one machine: no worker of one runs as the user of a worker of the other,
//! also after a SIGKILL; and a start that is stopped half-way leaves nothing.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Context as _, Result, ensure};
use hotcell_e2e::up::{Up, processes_of, programs, workspace};
use hotcell_schemas::Digest;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(120);
const ARGS: [&str; 5] = ["--encoders", "2", "--cell", "noop", "--webhook-retry=1"];

/// The users of the installation's two workers, while they run.
fn users(up: &Up) -> Result<BTreeSet<u32>> {
    let user = |name: &str| -> Result<u32> {
        let until = Instant::now() + PATIENCE;
        loop {
            let status = up.pid(name).map(|pid| fs::read_to_string(format!("/proc/{pid}/status")));
            if let Some(Ok(text)) = status {
                let line = text.lines().find_map(|line| line.strip_prefix("Uid:"));
                let id = line.and_then(|line| line.split_whitespace().next()).context("Uid")?;
                return Ok(id.parse()?);
            }
            ensure!(Instant::now() < until, "{name} does not run");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    Ok([user("worker-1")?, user("worker-2")?].into())
}

#[test]
fn no_worker_runs_as_the_user_of_another_installation_s() -> Result<()> {
    let (one, two) = (Up::start(&ARGS)?, Up::start(&ARGS)?);
    let (of_one, of_two) = (users(&one)?, users(&two)?);
    ensure!(
        of_one.len() == 2 && of_two.len() == 2 && !of_one.contains(&0),
        "{of_one:?} {of_two:?}"
    );
    ensure!(of_one.is_disjoint(&of_two), "{of_one:?} {of_two:?}");

    // Its processes run on, with their users.
    let left = one.kill()?;
    let three = Up::start(&ARGS)?;
    let of_three = users(&three)?;
    ensure!(of_three.is_disjoint(&of_one) && of_three.is_disjoint(&of_two), "{of_three:?}");
    let one = Up::start_in(left, &ARGS)?;
    ensure!(users(&one)?.is_disjoint(&of_two), "{:?}", users(&one)?);
    for up in [one, two, three] {
        drop(up.stop()?);
    }
    Ok(())
}

/// The folder of an installation's cells, as `up` names it when it is root.
fn cells_of(data: &Path) -> Result<PathBuf> {
    let name = Digest::of(data.canonicalize()?.as_os_str().as_encoded_bytes()).to_string();
    let short: String = name.chars().take(16).collect();
    Ok(PathBuf::from("/var/tmp").join(format!("hotcell-{short}")))
}

#[test]
fn a_start_that_is_stopped_leaves_nothing() -> Result<()> {
    let mut stopped = 0;
    for delay_ms in [0, 30, 60, 100, 150, 200, 300, 400, 600] {
        let dir = tempfile::tempdir()?;
        let cells = cells_of(dir.path())?;
        let mut child = Command::new(programs().join("hotcell"))
            .args(["up", "--listen", "127.0.0.1:0", "--data"])
            .arg(dir.path())
            .args(ARGS)
            .current_dir(workspace())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let until = Instant::now() + PATIENCE;
        // From here on it listens to signals.
        while !dir.path().join("run/ports.json").exists() && child.try_wait()?.is_none() {
            ensure!(Instant::now() < until, "it does not start");
            std::thread::sleep(Duration::from_millis(1));
        }
        // Not a condition: the moments at which it is stopped.
        std::thread::sleep(Duration::from_millis(delay_ms));
        stopped += u32::from(!dir.path().join("dev.env").exists());
        Up::signal(child.id(), "TERM")?;
        let status = child.wait()?;
        ensure!(status.success(), "{delay_ms} ms: {status}");
        let left = processes_of(dir.path());
        ensure!(left.is_empty(), "{delay_ms} ms: {left:?}");
        ensure!(!cells.exists(), "{delay_ms} ms: {} is left", cells.display());
    }
    ensure!(stopped > 0, "every start was done before it was stopped");
    Ok(())
}

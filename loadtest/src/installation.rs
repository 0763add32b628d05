//! One installation: `hotcell up` on a fresh folder and free ports.
//!
//! Promises: what was started is ended on drop, by SIGTERM and, when that does not help, SIGKILL to
//! our own descendants; folders of the run are removed.

use crate::{
    process,
    programs::Programs,
    scenario::{Durability, Scenario},
};
use anyhow::{Context as _, Result, bail};
use hotcell_nats_config::Installation as Keys;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// `hotcell up` itself gives up after a minute for each thing that it waits for.
const READY_MAX: Duration = Duration::from_secs(120);

/// Stopping drains three ranks of processes, 25 s each at the most.
const STOP_MAX: Duration = Duration::from_secs(90);

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What each tenant has.
const PLAN: &str = include_str!("../plan.toml");

/// Folder in which `hotcell up`, started as root, makes the worker's own.
const WORKERS_DIR: &str = "/var/tmp";

/// A running installation.
#[derive(Debug)]
pub(crate) struct Installation {
    child: Child,
    data: TempDir,
    programs: Programs,
    workers: Option<PathBuf>,
}

impl Installation {
    /// Starts one below `dir` and waits until it is ready.
    pub(crate) fn start(programs: &Programs, scenario: &Scenario, dir: &Path) -> Result<Self> {
        let data = tempfile::Builder::new().prefix("hotcell-load-").tempdir_in(dir)?;
        let log = File::create(data.path().join("up.log"))?;
        let durability = scenario.durability.map_or("always", Durability::as_str);
        let child = Command::new(programs.path("hotcell"))
            .arg("--data")
            .arg(data.path())
            .args(["up", "--listen", "127.0.0.1:0", "--tenant", &tenant(0)])
            .args(["--durability", durability])
            .args(["--cell", scenario.cell.as_deref().unwrap_or("ffmpeg")])
            .args(["--encoders", &scenario.encoders.to_string()])
            .args(["--slots", &scenario.slots.to_string()])
            .env("HOTCELL_NATS_SERVER", programs.nats_server()?)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start hotcell")?;
        let mut made = Self { child, data, programs: programs.clone(), workers: None };
        made.wait_until_ready()?;
        made.workers = process::worker_program(made.pid()).and_then(|program| {
            let dir = program.parent()?.parent()?.to_owned();
            (dir.parent() == Some(Path::new(WORKERS_DIR))).then_some(dir)
        });
        made.command(&["tenant", "set", &tenant(0), "--plan"])?;
        Ok(made)
    }

    /// Runs `hotcell`, with the file of the load's plan as the last argument; what it prints.
    fn command(&self, args: &[&str]) -> Result<Value> {
        let plan = self.data.path().join("load.toml");
        fs::write(&plan, PLAN)?;
        let ran = Command::new(self.programs.path("hotcell"))
            .arg("--data")
            .arg(self.data.path())
            .arg("--json")
            .args(args)
            .arg(plan)
            .output()?;
        if !ran.status.success() {
            bail!("hotcell {args:?}: {}", String::from_utf8_lossy(&ran.stderr));
        }
        Ok(serde_json::from_slice(&ran.stdout)?)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let until = Instant::now() + READY_MAX;
        // Written last of all, when everything answers.
        while !self.data.path().join("dev.env").is_file() {
            if self.child.try_wait()?.is_some() || Instant::now() > until {
                let log = fs::read_to_string(self.data.path().join("up.log")).unwrap_or_default();
                bail!("hotcell up was not ready: {log}");
            }
            thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Process id of `hotcell up`.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn data(&self) -> &Path {
        self.data.path()
    }

    /// A value of `dev.env`.
    pub(crate) fn env(&self, name: &str) -> Result<String> {
        let text = fs::read_to_string(self.data.path().join("dev.env"))?;
        let prefix = format!("export {name}=");
        let value = text.lines().find_map(|line| line.strip_prefix(&prefix));
        let value = value.with_context(|| format!("dev.env has no {name}"))?;
        Ok(value.trim_matches('\'').to_owned())
    }

    /// The broker's keys and logins.
    pub(crate) fn keys(&self) -> Result<Keys> {
        Ok(Keys::open(&self.data.path().join("nats"))?)
    }

    /// API key of the tenant with this number, and the secret of its second factor in base 32; all
    /// but the first are made.
    pub(crate) fn tenant_key(&self, number: u32) -> Result<(String, String)> {
        if number == 0 {
            let secrets = fs::read_dir(self.data.path().join("secrets"))?;
            let mut paths = secrets.flatten().map(|entry| entry.path());
            let is = |path: &PathBuf| {
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("totp-"))
            };
            let found = paths.find(is).context("no secret of a second factor")?;
            return Ok((self.env("HOTCELL_KEY")?, fs::read_to_string(found)?));
        }
        let made = self.command(&["tenant", "add", &tenant(number), "--plan"])?;
        let text = |name: &str| made.get(name).and_then(Value::as_str).map(str::to_owned);
        let key = text("key").context("no key was printed")?;
        Ok((key, text("totp").context("no second factor was printed")?))
    }

    /// Last lines of the logs that are not `info`, for an error message.
    pub(crate) fn complaints(&self) -> String {
        let logs = fs::read_dir(self.data.path().join("logs")).into_iter().flatten().flatten();
        let mut lines = Vec::new();
        for log in logs {
            let text = fs::read_to_string(log.path()).unwrap_or_default();
            let bad = text.lines().filter(|it| it.contains("WARN") || it.contains("ERROR"));
            let name = log.file_name().to_string_lossy().into_owned();
            lines.extend(bad.take(3).map(|line| format!("{name}: {line}")));
        }
        lines.join("\n")
    }

    fn end(&mut self) {
        let descendants = process::tree(self.pid());
        signal(self.pid(), Signal::TERM);
        let until = Instant::now() + STOP_MAX;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > until {
                descendants.iter().for_each(|process| signal(process.pid, Signal::KILL));
            }
            thread::sleep(LOOK_EVERY);
        }
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.end();
        }
        if let Some(dir) = &self.workers {
            // Left behind it only takes room; the next run makes its own.
            drop(fs::remove_dir_all(dir));
        }
    }
}

fn tenant(number: u32) -> String {
    format!("load-{number}")
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It fails only when the process has ended already.
        let _gone = kill_process(pid, signal);
    }
}

//! A whole installation for one test: the real `hotcell up` in a folder of its own, on free ports.
//!
//! Promises: it is ready when [`Up::start`] returns, and gone when it is dropped, however the test
//! ends. Refuses to start without the programs: build them first (`cargo build --workspace --bins`).

use anyhow::{Context as _, Result, bail, ensure};
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Every process that `up` starts beside its workers.
pub const SERVICES: [&str; 8] =
    ["nats-server", "store", "intake", "validator", "signer", "hasher", "auditor", "webhook"];

/// An installation must be ready, and must have stopped, within this long, on a busy machine.
const READY: Duration = Duration::from_secs(120);

/// A running installation.
#[derive(Debug)]
pub struct Up {
    child: Child,
    dir: TempDir,
    env: HashMap<String, String>,
}

/// The folder of the built programs: beside the test's own.
///
/// # Panics
/// When the test's path has no parent: it has.
#[must_use]
pub fn programs() -> PathBuf {
    let own = std::env::current_exe().expect("a test knows its own path");
    own.ancestors().nth(2).expect("target/<profile>/deps/<test>").to_owned()
}

impl Up {
    /// Starts `hotcell up --listen 127.0.0.1:0` with `args` more, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not get ready; says what the logs say.
    pub fn start(args: &[&str]) -> Result<Self> {
        Self::start_in(tempfile::tempdir()?, args)
    }

    /// The same in `dir`, which may hold an earlier installation.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_in(dir: TempDir, args: &[&str]) -> Result<Self> {
        Self::start_with(dir, args, &[])
    }

    /// The same with variables in its environment, such as `HOTCELL_FFMPEG`.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(dir: TempDir, args: &[&str], envs: &[(&str, &Path)]) -> Result<Self> {
        let program = programs().join("hotcell");
        ensure!(
            program.is_file(),
            "{} is missing: cargo build --workspace --bins",
            program.display()
        );
        let env_file = dir.path().join("dev.env");
        if env_file.exists() {
            fs::remove_file(&env_file)?;
        }
        let log = fs::File::create(dir.path().join("up.log"))?;
        let child = Command::new(program)
            .args(["up", "--listen", "127.0.0.1:0", "--data"])
            .arg(dir.path())
            .args(args)
            .envs(envs.iter().copied())
            .current_dir(workspace())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut up = Self { child, dir, env: HashMap::new() };
        let until = Instant::now() + READY;
        while !env_file.exists() {
            if let Some(status) = up.child.try_wait()? {
                bail!("`hotcell up` ended with {status}:\n{}", up.log("up"));
            }
            ensure!(Instant::now() < until, "not ready:\n{}", up.log("up"));
            std::thread::sleep(Duration::from_millis(10));
        }
        for line in fs::read_to_string(&env_file)?.lines() {
            let pair = line.strip_prefix("export ").and_then(|line| line.split_once('='));
            let (name, value) = pair.context("dev.env has another line")?;
            up.env.insert(name.to_owned(), value.trim_matches('\'').to_owned());
        }
        Ok(up)
    }

    /// A value of `dev.env`.
    ///
    /// # Panics
    /// When `dev.env` lacks it.
    #[must_use]
    pub fn env(&self, name: &str) -> &str {
        self.env.get(name).map(String::as_str).expect("dev.env has this value")
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The log of one process, or of `up` itself.
    #[must_use]
    pub fn log(&self, name: &str) -> String {
        let path = match name {
            "up" => self.dir().join("up.log"),
            _ => self.dir().join("logs").join(format!("{name}.log")),
        };
        fs::read_to_string(path).unwrap_or_default()
    }

    /// Runs `hotcell` on this installation.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn cli(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(programs().join("hotcell"));
        command.arg("--data").arg(self.dir()).args(args).current_dir(workspace());
        Ok(command.env_remove("HOTCELL_API").env_remove("HOTCELL_KEY").output()?)
    }

    /// Runs `hotcell ... --json`, which must succeed, and parses what it prints.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn json(&self, args: &[&str]) -> Result<serde_json::Value> {
        let output = self.cli(&[args, &["--json"]].concat())?;
        ensure!(
            output.status.success(),
            "{args:?} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// The pid of one of its processes right now.
    #[must_use]
    pub fn pid(&self, name: &str) -> Option<u32> {
        let text = fs::read_to_string(self.dir().join("run").join(format!("{name}.pid"))).ok()?;
        text.split_whitespace().next()?.parse().ok()
    }

    /// Sends a signal (`KILL`, `TERM`, ...) to a pid of this installation.
    ///
    /// # Errors
    /// When `kill` cannot be started.
    pub fn signal(pid: u32, signal: &str) -> Result<bool> {
        let mut kill = Command::new("kill");
        kill.arg(format!("-{signal}")).arg(pid.to_string());
        Ok(kill.stdout(Stdio::null()).stderr(Stdio::null()).status()?.success())
    }

    /// Ends it politely; what it left running is an error.
    ///
    /// # Errors
    /// When it does not end with 0 in time, or a process outlives it.
    pub fn stop(mut self) -> Result<TempDir> {
        Self::signal(self.child.id(), "INT")?;
        let until = Instant::now() + READY;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(Instant::now() < until, "`hotcell up` does not stop:\n{}", self.log("up"));
            std::thread::sleep(Duration::from_millis(10));
        };
        ensure!(status.success(), "`hotcell up` ended with {status}:\n{}", self.log("up"));
        let left = self.survivors();
        ensure!(left.is_empty(), "processes outlive `hotcell up`: {left:?}");
        // The rest of Drop has nothing to do: the child is gone.
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir()?);
        Ok(dir)
    }

    /// SIGKILL to `up` itself: its processes stay.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(mut self) -> Result<TempDir> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(std::mem::replace(&mut self.dir, tempfile::tempdir()?))
    }

    /// Command lines of processes that name this installation's folder, `up` itself excepted.
    #[must_use]
    pub fn survivors(&self) -> Vec<String> {
        processes_of(self.dir())
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _sent = Self::signal(self.child.id(), "INT");
            let until = Instant::now() + READY;
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(10));
            }
            let _gone = self.child.kill();
            let _gone = self.child.wait();
        }
        if std::thread::panicking() {
            let logs = fs::read_dir(self.dir().join("logs")).into_iter().flatten().flatten();
            for entry in logs {
                let text = fs::read_to_string(entry.path()).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let tail = lines.get(lines.len().saturating_sub(15)..).unwrap_or_default();
                say(&format!("--- {}\n{}", entry.path().display(), tail.join("\n")));
            }
        }
    }
}

#[expect(clippy::print_stderr, reason = "the logs of a failed test")]
fn say(text: &str) {
    eprintln!("{text}");
}

/// Command lines of processes whose arguments name `dir`.
#[must_use]
pub fn processes_of(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(bytes) = fs::read(entry.path().join("cmdline")) else { continue };
        let text = String::from_utf8_lossy(&bytes).replace('\0', " ");
        if text.contains(&dir.display().to_string()) && !text.contains(" up --listen") {
            found.push(text);
        }
    }
    found
}

/// The root of the repository.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

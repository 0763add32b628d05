//! The life of a service process: arguments, configuration, telemetry, run, drain, exit code.

use crate::{
    bus::BusError,
    config::{self, ConfigError, TelemetryConfig},
    telemetry,
};
use serde::de::DeserializeOwned;
use std::{future::Future, path::PathBuf, process::ExitCode, time::Duration};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

/// Exit code of a configuration that is refused (EX_USAGE of sysexits.h).
pub const EXIT_CONFIG: u8 = 64;

/// Exit code when a server that is needed cannot be reached (EX_UNAVAILABLE).
pub const EXIT_UNREACHABLE: u8 = 69;

/// After a stop signal, work in hand may take this long, in seconds; then the process ends, and
/// the broker delivers again what was not acked.
const DRAIN_SECS: u64 = 20;

/// Tells the parts of a process that it is ending.
#[derive(Debug, Clone, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// A shutdown that has not begun.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins it.
    pub fn begin(&self) {
        self.0.cancel();
    }

    /// Whether it has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Returns when it has begun.
    pub async fn begun(&self) {
        self.0.cancelled().await;
    }

    /// Sleeps for `time`, or less when the shutdown begins.
    pub async fn sleep(&self, time: Duration) {
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            () = self.begun() => {}
        }
    }

    /// The token itself, for libraries that take one.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.0.clone()
    }
}

/// Why a service ended.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// Exit 64.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Exit 64 or 69.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// Exit 69: one sentence saying what to do.
    #[error("{0}")]
    Unreachable(String),
    /// Exit 64: one sentence saying what to change.
    #[error("{0}")]
    Refused(String),
}

impl ServiceError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Refused(_) => EXIT_CONFIG,
            Self::Bus(
                BusError::File { .. } | BusError::WrongRole { .. } | BusError::PlainText { .. },
            ) => EXIT_CONFIG,
            Self::Bus(BusError::Unreachable { .. } | BusError::Refused { .. }) => EXIT_UNREACHABLE,
            Self::Unreachable(_) => EXIT_UNREACHABLE,
        }
    }
}

/// What `main` needs to know of a service.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// The program's name, as `hotcell-validator`.
    pub name: &'static str,
    /// The package's version.
    pub version: &'static str,
    /// `config.default.toml`: the defaults, and the manual that `--help` prints.
    pub defaults: &'static str,
}

/// A service's own configuration.
pub trait ServiceConfig: DeserializeOwned {
    /// The telemetry section.
    fn telemetry(&self) -> &TelemetryConfig;
}

enum Args {
    Run(PathBuf),
    Check(PathBuf),
    Print(String),
}

fn args(about: About) -> Result<Args, String> {
    let usage = format!("usage: {} [--check] CONFIG.toml | --help | --version", about.name);
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--version"] => Ok(Args::Print(format!("{} {}", about.name, about.version))),
        ["--help"] => Ok(Args::Print(format!(
            "{usage}\n\nThe defaults, which are the manual:\n\n{}",
            about.defaults
        ))),
        ["--check", path] => Ok(Args::Check(path.into())),
        [path] if !path.starts_with('-') => Ok(Args::Run(path.into())),
        _ => Err(usage),
    }
}

/// Runs a service from its arguments to its exit code. `run` gets the configuration and the
/// shutdown, and returns when its work is drained.
pub fn main<C, F, Fut>(about: About, run: F) -> ExitCode
where
    C: ServiceConfig,
    F: FnOnce(C, Shutdown) -> Fut,
    Fut: Future<Output = Result<(), ServiceError>>,
{
    let (path, only_check) = match args(about) {
        Ok(Args::Run(path)) => (path, false),
        Ok(Args::Check(path)) => (path, true),
        Ok(Args::Print(text)) => return print(&text),
        Err(usage) => return complain(&usage, 2),
    };
    let loaded: C = match config::load(&path, about.defaults) {
        Ok(loaded) => loaded,
        Err(error) => return complain(&describe(&error), EXIT_CONFIG),
    };
    if only_check {
        return print("configuration is valid");
    }
    crate::blob::install_tls();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&format!("no runtime: {error}"), 1),
    };
    let guard = match telemetry::init(about.name, loaded.telemetry()) {
        Ok(guard) => guard,
        Err(error) => return complain(&describe(&error), EXIT_CONFIG),
    };
    let ended = runtime.block_on(until_stopped(about, loaded, run));
    drop(guard);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&describe(&error), error.exit_code()),
    }
}

async fn until_stopped<C, F, Fut>(about: About, config: C, run: F) -> Result<(), ServiceError>
where
    F: FnOnce(C, Shutdown) -> Fut,
    Fut: Future<Output = Result<(), ServiceError>>,
{
    let shutdown = Shutdown::new();
    info!(version = about.version, "starting");
    let work = run(config, shutdown.clone());
    tokio::pin!(work);
    tokio::select! {
        ended = &mut work => return ended,
        () = stop_signal() => {}
    }
    info!("stopping");
    shutdown.begin();
    match tokio::time::timeout(Duration::from_secs(DRAIN_SECS), work).await {
        Ok(ended) => ended,
        Err(_) => {
            error!("work in hand did not end in time; the broker will deliver it again");
            Ok(())
        }
    }
}

async fn stop_signal() {
    let hook = |kind| signal(kind).expect("signal handlers can be installed");
    let (mut term, mut int) = (hook(SignalKind::terminate()), hook(SignalKind::interrupt()));
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

/// An error with its causes, on one line.
#[must_use]
pub fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[expect(clippy::print_stdout, reason = "--help and --version answer on stdout")]
fn print(text: &str) -> ExitCode {
    println!("{text}");
    ExitCode::SUCCESS
}

#[expect(clippy::print_stderr, reason = "the one sentence that says why the process ended")]
fn complain(text: &str, code: u8) -> ExitCode {
    eprintln!("{text}");
    ExitCode::from(code)
}

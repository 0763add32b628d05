//! The configuration file and its checks. Promises: what [`Config::check`] returns is usable.

use hotcell_jail::cgroup::{UnknownChoice, Wish};
use hotcell_schemas::PoolId;
use hotcell_stage::{
    NatsConfig, TelemetryConfig,
    config::ConfigError,
    service::{About, ServiceConfig},
};
use serde::Deserialize;
use std::{path::PathBuf, str::FromStr};

/// The service, for `main` and `--help`.
pub const ABOUT: About = About {
    name: "hotcell-encoder",
    version: env!("CARGO_PKG_VERSION"),
    defaults: include_str!("../config.default.toml"),
};

/// Attempts at once: beyond 64, start a second process.
const SLOTS_MAX: usize = 64;

/// `config.default.toml` is the manual of these keys.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The pool.
    pub pool: String,
    /// Attempts at once.
    pub slots: usize,
    /// User and group of the first slot's cells, when the worker is root.
    pub first_uid: u32,
    /// Whether to use control groups.
    pub cgroup: String,
    /// Folders of control groups that belong to this worker.
    pub cgroup_folders: Vec<PathBuf>,
    /// Most processor time of one cell, in percent of one processor; 0 for no bound.
    pub cell_cpu_percent: u32,
    /// Whether cells may start without the layers that the host lacks.
    pub degraded: bool,
    /// What the programs are, for the record.
    pub cell: String,
    /// The launcher.
    pub launcher: PathBuf,
    /// The transcoder.
    pub ffmpeg: PathBuf,
    /// The prober.
    pub ffprobe: PathBuf,
    /// Folder of the attempts' files.
    pub work_dir: PathBuf,
    /// Folder of the cells' file trees.
    pub root_cache: PathBuf,
    /// The broker.
    pub nats: NatsConfig,
    /// Logs and traces.
    pub telemetry: TelemetryConfig,
}

impl ServiceConfig for Config {
    fn telemetry(&self) -> &TelemetryConfig {
        &self.telemetry
    }
}

/// Values of a [`Config`] that were checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checked {
    pub(crate) pool: PoolId,
    pub(crate) slots: usize,
    pub(crate) first_uid: u32,
    pub(crate) groups: Wish,
    pub(crate) cell: CellKind,
}

impl Config {
    /// The values as domain types.
    pub(crate) fn check(&self) -> Result<Checked, ConfigError> {
        let value = |key, rule: &str| ConfigError::Value { key, rule: rule.to_owned() };
        let pool = self.pool.parse().map_err(|_| {
            value("pool", "must be 1 to 40 characters of a-z, 0-9 and '-', as in the login")
        })?;
        if !(1..=SLOTS_MAX).contains(&self.slots) {
            return Err(value("slots", "must be 1 to 64"));
        }
        let cell = self.cell.parse().map_err(|NotACell| {
            value("cell", "must be `ffmpeg`, `noop` or `fixed:<ms>` with at most 3600000 ms")
        })?;
        if self.first_uid == 0 {
            return Err(value("first_uid", "must not be 0: no cell is root"));
        }
        let choice = self
            .cgroup
            .parse()
            .map_err(|error: UnknownChoice| value("cgroup", &error.to_string()))?;
        let groups = Wish {
            choice,
            folders: self.cgroup_folders.clone(),
            cpu_percent: Some(self.cell_cpu_percent).filter(|percent| *percent > 0),
        };
        Ok(Checked { pool, slots: self.slots, first_uid: self.first_uid, groups, cell })
    }
}

/// What runs in the cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CellKind {
    /// FFmpeg.
    Ffmpeg,
    /// A stand-in that returns at once.
    Noop,
    /// A stand-in that takes this long, in milliseconds.
    Fixed(u32),
}

/// The text names no kind of cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotACell;

impl FromStr for CellKind {
    type Err = NotACell;
    fn from_str(text: &str) -> Result<Self, NotACell> {
        match text {
            "ffmpeg" => Ok(Self::Ffmpeg),
            "noop" => Ok(Self::Noop),
            _ => {
                let ms = text.strip_prefix("fixed:").and_then(|ms| ms.parse().ok());
                ms.filter(|ms| *ms <= 3_600_000).map(Self::Fixed).ok_or(NotACell)
            }
        }
    }
}

impl std::fmt::Display for CellKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ffmpeg => f.write_str("ffmpeg"),
            Self::Noop => f.write_str("noop"),
            Self::Fixed(ms) => write!(f, "fixed:{ms}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_named() {
        let check = |text: &str, expect| assert_eq!(text.parse::<CellKind>(), expect, "{text}");
        check("ffmpeg", Ok(CellKind::Ffmpeg));
        check("noop", Ok(CellKind::Noop));
        check("fixed:250", Ok(CellKind::Fixed(250)));
        for bad in ["", "sh", "fixed:", "fixed:-1", "fixed:3600001", "fixed:1s"] {
            check(bad, Err(NotACell));
        }
        assert_eq!(CellKind::Fixed(250).to_string(), "fixed:250");
    }

    #[test]
    fn the_defaults_lack_only_what_nobody_can_guess() {
        let given = "launcher = '/l'\nwork_dir = '/w'\nroot_cache = '/r'\n\
            [nats]\ncreds = '/c'\ntrust = '/t'\n";
        let file = tempfile::NamedTempFile::new().unwrap();
        let load = |text: String| {
            std::fs::write(file.path(), text).unwrap();
            hotcell_stage::config::load::<Config>(file.path(), ABOUT.defaults)
        };
        let checked = load(given.to_owned()).unwrap().check().unwrap();
        assert_eq!((checked.pool.as_str(), checked.slots), ("cpu", 1));
        for bad in [
            "pool = 'a.b'\n",
            "slots = 0\n",
            "slots = 65\n",
            "cell = 'sh'\n",
            "cgroup = 'v2'\n",
            "first_uid = 0\n",
        ] {
            assert!(load(format!("{bad}{given}")).unwrap().check().is_err(), "{bad}");
        }
        assert!(load(format!("poool = 'cpu'\n{given}")).is_err(), "unknown keys are errors");
    }
}

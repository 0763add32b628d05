//! Scenario files: what is run, in numbers. Promises: unknown keys, keys that a kind does not use,
//! missing ones and values beyond the limits are errors. The files in `scenarios/` are compiled in.

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Jobs of one run: two minutes at 500 a second.
const JOBS_MAX: u32 = 60_000;
/// Jobs on their way at once: each holds a task and a connection.
const IN_FLIGHT_MAX: u32 = 1024;
/// Jobs per second that an open loop offers.
const RATE_MAX: u32 = 2000;
/// Seconds of one run.
const SECONDS_MAX: u32 = 120;
/// Workers, and cells of each.
const WORKERS_MAX: u32 = 64;
/// Tenants: each has a consumer of its own.
const TENANTS_MAX: u32 = 64;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Jobs per second, against bare publishes on the same broker.
    Throughput,
    /// From submit to webhook at a steady rate.
    Latency,
    /// Start to exit of a cell, against plain spawn, `unshare` and `bwrap`.
    Cell,
    /// Start to exit of cells, several at once.
    Starts,
    /// Processor time of an encode, in and out of a cell.
    Encode,
    /// Seal, open, presign: loops on one thread.
    Micro,
    /// Real encodes, against `xargs` on local files.
    Batch,
    /// How long one tenant's jobs wait for a worker, alone and beside another's flood.
    Flood,
    /// Requests per second of one intake, with every check on.
    Edge,
}

impl Kind {
    /// Every kind, in the order of the report.
    pub const ALL: [Self; 9] = [
        Self::Throughput,
        Self::Latency,
        Self::Cell,
        Self::Starts,
        Self::Encode,
        Self::Micro,
        Self::Batch,
        Self::Flood,
        Self::Edge,
    ];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Throughput => "throughput",
            Self::Latency => "latency",
            Self::Cell => "cell",
            Self::Starts => "starts",
            Self::Encode => "encode",
            Self::Micro => "micro",
            Self::Batch => "batch",
            Self::Flood => "flood",
            Self::Edge => "edge",
        }
    }

    /// The keys that a scenario of this kind has, besides `name` and `kind`.
    const fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Throughput | Self::Batch | Self::Flood => {
                &["jobs", "in_flight", "encoders", "slots", "tenants", "durability", "cell"]
            }
            Self::Latency => {
                &["rate", "seconds", "encoders", "slots", "tenants", "durability", "cell"]
            }
            Self::Edge => {
                &["in_flight", "seconds", "encoders", "slots", "tenants", "durability", "cell"]
            }
            Self::Cell | Self::Starts => &["jobs"],
            Self::Encode => &["jobs", "seconds"],
            Self::Micro => &["seconds"],
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// When an acknowledged event is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Durability {
    /// Before it is acknowledged.
    #[serde(rename = "always")]
    Always,
    /// Within a second.
    #[serde(rename = "1s")]
    OneSecond,
}

impl Durability {
    /// The word of `hotcell up --durability`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::OneSecond => "1s",
        }
    }
}

/// One run. A number that its kind does not use is 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Its name in the report.
    pub name: String,
    /// What is measured.
    pub kind: Kind,
    /// Jobs, rounds, cells at each parallelism, pairs or clips.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub jobs: u32,
    /// Jobs on their way at once, in a closed loop.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub in_flight: u32,
    /// Jobs per second, in an open loop.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rate: u32,
    /// How long it runs, or its clip is.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub seconds: u32,
    /// Workers.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub encoders: u32,
    /// Cells that one worker runs at once.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub slots: u32,
    /// Tenants, taking turns.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tenants: u32,
    /// When an acknowledged event is on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<Durability>,
    /// What runs in the cells: `ffmpeg`, `noop` or `fixed:MS`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cell: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Scenario {
    /// Reads a scenario file's text.
    ///
    /// # Errors
    /// When it is no TOML, has unknown, unused or missing keys, or values beyond the limits.
    pub fn parse(text: &str) -> Result<Self> {
        let scenario: Self = toml::from_str(text).context("the scenario does not read")?;
        scenario.check().with_context(|| format!("scenario {}", scenario.name))?;
        Ok(scenario)
    }

    fn check(&self) -> Result<()> {
        let slug = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let named = !self.name.is_empty() && self.name.len() <= 64 && self.name.chars().all(slug);
        ensure!(named, "name must be 1 to 64 of a-z, 0-9 and '-'");
        let numbers = [
            ("jobs", self.jobs, JOBS_MAX),
            ("in_flight", self.in_flight, IN_FLIGHT_MAX),
            ("rate", self.rate, RATE_MAX),
            ("seconds", self.seconds, SECONDS_MAX),
            ("encoders", self.encoders, WORKERS_MAX),
            ("slots", self.slots, WORKERS_MAX),
            ("tenants", self.tenants, TENANTS_MAX),
        ];
        for (key, value, max) in numbers {
            let used = self.kind.keys().contains(&key);
            ensure!(!used || (1..=max).contains(&value), "{key} must be 1 to {max}");
            ensure!(used || value == 0, "{key} is not a key of kind {}", self.kind);
        }
        let words = [("durability", self.durability.is_some()), ("cell", self.cell.is_some())];
        for (key, given) in words {
            let used = self.kind.keys().contains(&key);
            ensure!(used == given, "{key} is {}", if used { "missing" } else { "not used" });
        }
        if let Some(cell) = &self.cell {
            let fixed = cell.strip_prefix("fixed:").is_some_and(|ms| ms.parse::<u32>().is_ok());
            ensure!(cell == "ffmpeg" || cell == "noop" || fixed, "cell must be known");
        }
        Ok(())
    }

    /// The same, so small that all of them take under a minute. Its numbers mean nothing.
    #[must_use]
    pub fn quick(mut self) -> Self {
        let jobs = match self.kind {
            Kind::Throughput => 24,
            Kind::Flood => 60,
            Kind::Cell | Kind::Starts => 10,
            Kind::Batch => 2,
            Kind::Encode => 1,
            Kind::Latency | Kind::Micro | Kind::Edge => 0,
        };
        self.jobs = self.jobs.min(jobs);
        self.in_flight = self.in_flight.min(8);
        self.rate = self.rate.min(5);
        self.seconds = self.seconds.min(1);
        self.tenants = self.tenants.min(2);
        self
    }
}

/// The scenarios that are compiled in, in the order of the report.
///
/// # Errors
/// When one of them does not parse.
pub fn built_in() -> Result<Vec<Scenario>> {
    let texts = [
        include_str!("../scenarios/throughput-1s.toml"),
        include_str!("../scenarios/throughput-always.toml"),
        include_str!("../scenarios/throughput-8-tenants-1s.toml"),
        include_str!("../scenarios/throughput-8-tenants-always.toml"),
        include_str!("../scenarios/latency-1s.toml"),
        include_str!("../scenarios/latency-always.toml"),
        include_str!("../scenarios/cell.toml"),
        include_str!("../scenarios/starts.toml"),
        include_str!("../scenarios/encode.toml"),
        include_str!("../scenarios/micro.toml"),
        include_str!("../scenarios/batch.toml"),
        include_str!("../scenarios/flood.toml"),
        include_str!("../scenarios/edge.toml"),
    ];
    texts.into_iter().map(Scenario::parse).collect()
}

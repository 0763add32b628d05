//! Configuration of the validator.

use crate::compile::WALL_SECS;
use hotcell_stage::{
    NatsConfig, TelemetryConfig,
    config::ConfigError,
    service::{ServiceConfig, ServiceError},
};
use serde::Deserialize;

/// The defaults, which are the manual.
pub const DEFAULTS: &str = include_str!("../config.default.toml");

/// Inputs that may be read at once: with 1.1 MiB each, over a gigabyte.
const CONCURRENCY_MAX: usize = 1024;

/// The validator's configuration file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The broker.
    pub nats: NatsConfig,
    /// Logs and traces.
    pub telemetry: TelemetryConfig,
    /// Inputs that are read at once.
    pub concurrency: usize,
    /// Longest wall clock of an encode, in seconds.
    pub wall_secs_max: u32,
}

impl ServiceConfig for Config {
    fn telemetry(&self) -> &TelemetryConfig {
        &self.telemetry
    }
}

impl Config {
    /// Holds the values to their ranges; nothing has connected yet.
    pub(crate) fn check(&self) -> Result<(), ServiceError> {
        let refuse = |key, max: &dyn std::fmt::Display| {
            let rule = format!("must be 1 to {max}");
            Err(ServiceError::Config(ConfigError::Value { key, rule }))
        };
        if !(1..=CONCURRENCY_MAX).contains(&self.concurrency) {
            return refuse("concurrency", &CONCURRENCY_MAX);
        }
        if !(1..=WALL_SECS).contains(&self.wall_secs_max) {
            return refuse("wall_secs_max", &WALL_SECS);
        }
        Ok(())
    }
}

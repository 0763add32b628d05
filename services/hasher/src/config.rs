//! The configuration file and its checks. Promises: what [`Config::check`] returns is usable.

use hotcell_stage::{
    NatsConfig, TelemetryConfig,
    config::ConfigError,
    service::{About, ServiceConfig},
};
use serde::Deserialize;

/// The service, for `main` and `--help`.
pub const ABOUT: About = About {
    name: "hotcell-hasher",
    version: env!("CARGO_PKG_VERSION"),
    defaults: include_str!("../config.default.toml"),
};

/// Jobs in hand at once: beyond 256 the network is the limit, not this number.
const CONCURRENCY_MAX: usize = 256;

/// `config.default.toml` is the manual of these keys.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Jobs in hand at once.
    pub concurrency: usize,
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

impl Config {
    /// The number of jobs in hand at once.
    pub(crate) fn check(&self) -> Result<usize, ConfigError> {
        if (1..=CONCURRENCY_MAX).contains(&self.concurrency) {
            return Ok(self.concurrency);
        }
        Err(ConfigError::Value { key: "concurrency", rule: "must be 1 to 256".to_owned() })
    }
}

//! Configuration of the webhook service. Its one secret, the sealing key, is a file.

use crate::{egress::Policy, vault::Vault};
use hotcell_schemas::limits::WEBHOOK_RETRY_SECS;
use hotcell_stage::{
    NatsConfig, TelemetryConfig,
    config::{ConfigError, read_key},
    service::ServiceConfig,
};
use serde::Deserialize;
use std::path::PathBuf;

/// The defaults, which are the manual.
pub const DEFAULTS: &str = include_str!("../config.default.toml");

/// Most attempts or events at once that may be configured: each attempt holds a socket.
const CONCURRENCY_MAX: usize = 4096;

/// The webhook service's configuration file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The broker.
    pub nats: NatsConfig,
    /// Logs and traces.
    pub telemetry: TelemetryConfig,
    /// File with the sealing key.
    pub secrets_key: PathBuf,
    /// Seconds before each further attempt.
    pub retry_secs: Vec<u64>,
    /// Attempts in flight.
    pub attempts_max: usize,
    /// Attempts in flight for one tenant.
    pub tenant_attempts_max: usize,
    /// Attempts in flight for one endpoint.
    pub endpoint_attempts_max: usize,
    /// Job events in hand.
    pub events_max: usize,
    /// Whether endpoints may be on loopback.
    pub allow_loopback: bool,
}

impl ServiceConfig for Config {
    fn telemetry(&self) -> &TelemetryConfig {
        &self.telemetry
    }
}

impl Config {
    /// Checks values and reads the sealing key; nothing has connected yet.
    pub(crate) fn check(&self) -> Result<Vault, ConfigError> {
        let bounds = [
            ("attempts_max", self.attempts_max, CONCURRENCY_MAX),
            ("tenant_attempts_max", self.tenant_attempts_max, self.attempts_max),
            ("endpoint_attempts_max", self.endpoint_attempts_max, self.tenant_attempts_max),
            ("events_max", self.events_max, CONCURRENCY_MAX),
        ];
        for (key, value, max) in bounds {
            if value == 0 || value > max {
                return Err(ConfigError::Value { key, rule: format!("must be 1 to {max}") });
            }
        }
        let within = self.retry_secs.iter().zip(WEBHOOK_RETRY_SECS).all(|(own, max)| *own <= max);
        if !within || self.retry_secs.len() > WEBHOOK_RETRY_SECS.len() {
            let rule = format!("must be at most {WEBHOOK_RETRY_SECS:?}, each in its place");
            return Err(ConfigError::Value { key: "retry_secs", rule });
        }
        Ok(Vault::new(&read_key("secrets_key", &self.secrets_key)?))
    }

    /// Which addresses may be reached.
    pub(crate) fn policy(&self) -> Policy {
        Policy { allow_loopback: self.allow_loopback }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<(), String> {
        let dir = tempfile::tempdir().unwrap();
        let (key, file) = (dir.path().join("key"), dir.path().join("config.toml"));
        std::fs::write(&key, "07".repeat(32)).unwrap();
        let nats = "[nats]\ncreds = \"c\"\ntrust = \"t\"\n";
        std::fs::write(&file, format!("secrets_key = {key:?}\n{text}\n{nats}")).unwrap();
        let config: Config =
            hotcell_stage::config::load(&file, DEFAULTS).map_err(|error| error.to_string())?;
        assert!(!config.allow_loopback, "the default must be safe");
        config.check().map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_valid_and_limits_only_go_down() {
        assert_eq!(check(""), Ok(()));
        assert_eq!(check("retry_secs = [1, 1]"), Ok(()));
        let refused = |text: &str, key: &str| assert!(check(text).unwrap_err().contains(key));
        refused("retry_secs = [61, 300, 1800]", "retry_secs");
        refused("retry_secs = [1, 1, 1, 1]", "retry_secs");
        refused("attempts_max = 0", "attempts_max");
        refused("endpoint_attempts_max = 33", "endpoint_attempts_max");
        refused("allow_private = true", "allow_private");
    }
}

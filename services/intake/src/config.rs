//! Configuration of intake. It holds no secret: the login is a file, and keys of tenants are hashes
//! in the broker.

use crate::oidc::IssuerConfig;
use crate::{ext_authz::ExtAuthzConfig, opa::OpaConfig, rate::RateConfig, token::TOKEN_SECS_MAX};
use hotcell_schemas::{limits::APPROVERS_MAX, network::Network};
use hotcell_stage::{
    NatsConfig, TelemetryConfig,
    config::{ConfigError, read_key},
    service::ServiceConfig,
    tls::{ServerTls, check_listen},
    vault::Vault,
};
use serde::Deserialize;
use std::{net::SocketAddr, path::PathBuf};

/// The defaults, which are the manual.
pub const DEFAULTS: &str = include_str!("../config.default.toml");

/// Most connections that may be configured: each holds a descriptor and some 20 KiB.
const CONNECTIONS_MAX: usize = 65_536;

/// Most requests or reads at once that may be configured.
const CONCURRENCY_MAX: usize = 4096;

/// Longest life of an approval that may be configured, in seconds: a week. Its record lives 30 days.
const EXPIRES_SECS_MAX: u64 = 604_800;

/// Intake's configuration file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Address of the HTTP API; port 0 takes a free port.
    pub listen: SocketAddr,
    /// The certificate; without one, only loopback is listened on.
    #[serde(default)]
    pub tls: Option<ServerTls>,
    /// File that gets the bound address once requests are accepted; none when empty.
    pub address_file: PathBuf,
    /// HTTP connections open at once.
    pub connections_max: usize,
    /// HTTP connections of one address (IPv6: one /64), but for `trusted_proxies`.
    pub connections_per_address_max: usize,
    /// Uploads that are read and hashed at once.
    pub confirms_max: usize,
    /// Requests over the broker in hand at once, for each verb.
    pub broker_requests_max: usize,
    /// Networks of proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Network>,
    /// How often who may ask.
    pub rate: RateConfig,
    /// File of the key that seals second factors; none, and no local second factor, when empty.
    pub totp_key_file: PathBuf,
    /// Life of our own access tokens, in seconds.
    pub token_secs: u64,
    /// Base URLs at which clients see the API: what proofs of possession name (RFC 9449 §4.3).
    pub external_urls: Vec<String>,
    /// Identity providers whose access tokens are believed.
    #[serde(default)]
    pub oidc: Vec<IssuerConfig>,
    /// Approvals by other people.
    pub approvals: ApprovalsConfig,
    /// An agent that is asked after our own policies.
    pub opa: OpaConfig,
    /// What other gateways may ask.
    pub ext_authz: ExtAuthzConfig,
    /// The broker.
    pub nats: NatsConfig,
    /// Logs and traces.
    pub telemetry: TelemetryConfig,
}

/// What an approval needs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalsConfig {
    /// Approvers needed, whatever a requester asks for.
    pub approvers_min: u32,
    /// Longest life of an approval, in seconds.
    pub expires_secs_max: u64,
}

impl ServiceConfig for Config {
    fn telemetry(&self) -> &TelemetryConfig {
        &self.telemetry
    }
}

impl Config {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for a bound of zero or beyond reason.
    pub fn check(&self) -> Result<(), ConfigError> {
        check_listen(self.listen, self.tls.as_ref())?;
        let bounds = [
            ("connections_max", self.connections_max, CONNECTIONS_MAX),
            ("connections_per_address_max", self.connections_per_address_max, CONNECTIONS_MAX),
            ("confirms_max", self.confirms_max, CONCURRENCY_MAX),
            ("broker_requests_max", self.broker_requests_max, CONCURRENCY_MAX),
        ];
        for (key, value, max) in bounds {
            if value == 0 || value > max {
                let rule = format!("must be 1 to {max}");
                return Err(ConfigError::Value { key, rule });
            }
        }
        self.rate.check().map_err(|(key, rule)| ConfigError::Value { key, rule })?;
        if self.token_secs == 0 || self.token_secs > TOKEN_SECS_MAX {
            let rule = format!("must be 1 to {TOKEN_SECS_MAX}");
            return Err(ConfigError::Value { key: "token_secs", rule });
        }
        self.opa.url()?;
        self.ext_authz.check()?;
        let approvers = self.approvals.approvers_min;
        if approvers == 0 || approvers > APPROVERS_MAX {
            let rule = format!("must be 1 to {APPROVERS_MAX}");
            return Err(ConfigError::Value { key: "approvals.approvers_min", rule });
        }
        let expires = self.approvals.expires_secs_max;
        if expires == 0 || expires > EXPIRES_SECS_MAX {
            let rule = format!("must be 1 to {EXPIRES_SECS_MAX}");
            return Err(ConfigError::Value { key: "approvals.expires_secs_max", rule });
        }
        Ok(())
    }

    /// What opens second factors; nothing where no key is configured.
    ///
    /// # Errors
    /// [`ConfigError`]: the key's file.
    pub fn vault(&self) -> Result<Option<Vault>, ConfigError> {
        if self.totp_key_file.as_os_str().is_empty() {
            return Ok(None);
        }
        read_key("totp_key_file", &self.totp_key_file).map(|key| Some(Vault::new(&key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        hotcell_stage::config::load::<Config>(file.path(), DEFAULTS)
    }

    #[test]
    fn the_defaults_are_a_valid_configuration() {
        let config = load("").unwrap();
        config.check().unwrap();
        assert_eq!(config.listen.port(), 8080);
    }

    #[test]
    fn bounds_and_unknown_keys_are_checked() {
        assert!(load("connections_max = 0").unwrap().check().is_err());
        assert!(load("confirms_max = 1000000").unwrap().check().is_err());
        assert!(load("api_key = \"x\"").is_err());
        assert!(load("token_secs = 301").unwrap().check().is_err());
        assert!(load("token_secs = 0").unwrap().check().is_err());
        assert!(load("totp_key_file = \"/nonexistent\"").unwrap().vault().is_err());
    }
}

//! Configuration: one TOML file, named by the single argument, laid over the service's compiled-in
//! `config.default.toml`, which is its manual. Unknown keys are errors. Values become domain types
//! once, before anything connects.

use crate::tls::ClientTls;
use serde::{Deserialize, de::DeserializeOwned};
use std::{
    io,
    path::{Path, PathBuf},
};

/// The broker, as one service sees it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatsConfig {
    /// `nats://host:port` or `tls://host:port`.
    pub url: String,
    /// The credential file: the login, and the key that signs this process's messages.
    pub creds: PathBuf,
    /// `trust.json`.
    pub trust: PathBuf,
    /// What a broker that asks for TLS is shown; plain text when absent.
    #[serde(default)]
    pub tls: Option<ClientTls>,
}

/// Logs and traces.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetryConfig {
    /// Filter as of `tracing_subscriber::EnvFilter`.
    pub log: String,
    /// `text` or `json`.
    pub format: LogFormat,
    /// OTLP/HTTP endpoint of traces, as `http://127.0.0.1:4318/v1/traces`; none when empty.
    pub otlp: String,
}

/// Form of the log on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Why a configuration is refused. The process exits with 64.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: check the path and its permissions")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file is no TOML, or a key is unknown, missing or of the wrong type.
    #[error("{path} is not a valid configuration: {detail}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What the parser says: key, line, rule.
        detail: String,
    },
    /// A value breaks a rule.
    #[error("configuration key {key}: {rule}")]
    Value {
        /// The key.
        key: &'static str,
        /// The rule.
        rule: String,
    },
}

/// Loads `path` over `defaults`.
///
/// # Errors
/// [`ConfigError`].
pub fn load<T: DeserializeOwned>(path: &Path, defaults: &str) -> Result<T, ConfigError> {
    let text = read(path)?;
    let parse = |error: toml::de::Error| ConfigError::Parse {
        path: path.to_owned(),
        detail: error.message().to_owned(),
    };
    let mut table: toml::Table = toml::from_str(defaults).map_err(parse)?;
    overlay(&mut table, toml::from_str(&text).map_err(parse)?);
    table.try_into().map_err(parse)
}

/// Lays `over` on `base`, table by table; any other value replaces.
fn overlay(base: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(inner)), toml::Value::Table(value)) => overlay(inner, value),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// Reads a text file that the configuration names.
///
/// # Errors
/// [`ConfigError::Read`].
pub fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })
}

/// Reads a key file: exactly 64 hexadecimal digits, white space around them ignored.
///
/// # Errors
/// [`ConfigError`].
pub fn read_key(key: &'static str, path: &Path) -> Result<[u8; 32], ConfigError> {
    let bytes = hex::decode(read(path)?.trim()).ok().and_then(|b| b.try_into().ok());
    bytes.ok_or_else(|| ConfigError::Value {
        key,
        rule: format!("{} must hold 64 hexadecimal digits", path.display()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        nats: NatsConfig,
        limit: u32,
    }
    const DEFAULTS: &str = "limit = 3\n[nats]\nurl = \"nats://a\"\ncreds = \"c\"\ntrust = \"t\"\n";

    fn check(text: &str) -> Result<Sample, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        load(file.path(), DEFAULTS)
    }

    #[test]
    fn the_file_lies_over_the_defaults() {
        let sample = check("[nats]\nurl = \"nats://b\"\n").unwrap();
        assert_eq!((sample.nats.url.as_str(), sample.limit), ("nats://b", 3));
        assert_eq!(sample.nats.creds, Path::new("c"));
    }

    #[test]
    fn unknown_keys_and_missing_files_are_errors() {
        assert!(check("limits = 4\n").unwrap_err().to_string().contains("limits"));
        assert!(check("limit = \"4\"\n").is_err());
        let error = load::<Sample>(Path::new("/nonexistent"), DEFAULTS).unwrap_err();
        assert!(error.to_string().contains("/nonexistent"));
    }
}

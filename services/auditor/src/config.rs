//! Configuration of the auditor. Its one secret, the checkpoint key, is a file.

use std::path::PathBuf;
use std::sync::Arc;

use hotcell_stage::blob::install_tls;
use hotcell_stage::config::{ConfigError, read};
use hotcell_stage::service::ServiceConfig;
use hotcell_stage::tls::is_private;
use hotcell_stage::{NatsConfig, TelemetryConfig};
use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use serde::Deserialize;

use crate::log::{BATCH_RECORDS_MAX, LogConfig};
use crate::note::{Signer, VerifierKey};
use crate::store;

/// The defaults, which are the manual.
pub const DEFAULTS: &str = include_str!("../config.default.toml");

/// Shortest wait of a batch: more than 100 checkpoints a second would be mostly signatures.
const BATCH_MS_MIN: u64 = 10;
/// Longest wait of a batch: the messages must be acknowledged well within 60 s.
const BATCH_MS_MAX: u64 = 10_000;

/// The auditor's configuration file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The broker.
    pub nats: NatsConfig,
    /// Logs and traces.
    pub telemetry: TelemetryConfig,
    /// The log's name.
    pub origin: String,
    /// File with the checkpoint key.
    pub signing_key: PathBuf,
    /// Verifier keys of earlier checkpoint keys.
    pub older_keys: Vec<String>,
    /// Messages of one checkpoint at most.
    pub batch_records: usize,
    /// Longest wait for a full batch, in milliseconds.
    pub batch_ms: u64,
    /// Where the log is.
    pub log: Place,
}

/// Where the log is; exactly one of the two.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// A folder, made when it is not there.
    pub folder: Option<PathBuf>,
    /// A bucket.
    pub s3: Option<S3Config>,
}

/// A bucket and the key to it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3Config {
    /// `http://host:port` or `https://host`.
    pub endpoint: String,
    /// Region in the credential scope.
    pub region: String,
    /// The bucket.
    pub bucket: String,
    /// Where in the bucket.
    pub prefix: String,
    /// Public half of the key.
    pub access_key_id: String,
    /// File with the secret half.
    pub secret: PathBuf,
}

/// The configuration as domain types. Opening may take several tries, and a signer is not cloned,
/// so its text is kept.
pub(crate) struct Checked {
    pub(crate) objects: Arc<dyn ObjectStore>,
    prefix: String,
    key: String,
    older_keys: Vec<VerifierKey>,
}

fn value(key: &'static str, rule: impl ToString) -> ConfigError {
    ConfigError::Value { key, rule: rule.to_string() }
}

impl ServiceConfig for Config {
    fn telemetry(&self) -> &TelemetryConfig {
        &self.telemetry
    }
}

impl Config {
    /// Turns values into domain types; nothing has connected yet.
    pub(crate) fn check(&self) -> Result<Checked, ConfigError> {
        if self.batch_records == 0 || self.batch_records > BATCH_RECORDS_MAX {
            return Err(value("batch_records", format!("must be 1 to {BATCH_RECORDS_MAX}")));
        }
        if !(BATCH_MS_MIN..=BATCH_MS_MAX).contains(&self.batch_ms) {
            return Err(value("batch_ms", format!("must be {BATCH_MS_MIN} to {BATCH_MS_MAX}")));
        }
        let key = read(&self.signing_key)?.trim().to_owned();
        let signer = Signer::parse(&key).map_err(|error| value("signing_key", error))?;
        if signer.verifier().name() != self.origin {
            return Err(value("signing_key", "must be a key of the configured origin"));
        }
        let older = self.older_keys.iter().map(|text| VerifierKey::parse(text));
        let older_keys: Vec<_> =
            older.collect::<Result<_, _>>().map_err(|error| value("older_keys", error))?;
        if older_keys.iter().any(|older| older.name() != self.origin) {
            return Err(value("older_keys", "must be keys of the configured origin"));
        }
        let (objects, prefix) = self.log.open()?;
        Ok(Checked { objects, prefix, key, older_keys })
    }
}

impl Place {
    fn open(&self) -> Result<(Arc<dyn ObjectStore>, String), ConfigError> {
        match (&self.folder, &self.s3) {
            (Some(folder), None) => {
                std::fs::create_dir_all(folder).map_err(|error| value("log.folder", error))?;
                let objects = store::folder(folder).map_err(|error| value("log.folder", error))?;
                Ok((objects, String::new()))
            }
            (None, Some(s3)) => Ok((s3.open()?, s3.prefix.clone())),
            _ => Err(value("log", "must name either `folder` or the section `log.s3`")),
        }
    }
}

impl S3Config {
    fn open(&self) -> Result<Arc<dyn ObjectStore>, ConfigError> {
        if !is_private(&self.endpoint) {
            return Err(value("log.s3.endpoint", "must be https://, or on loopback"));
        }
        install_tls();
        let secret = read(&self.secret)?;
        let store = AmazonS3Builder::new()
            .with_endpoint(&self.endpoint)
            .with_allow_http(self.endpoint.starts_with("http://"))
            .with_region(&self.region)
            .with_bucket_name(&self.bucket)
            .with_access_key_id(&self.access_key_id)
            .with_secret_access_key(secret.trim())
            .build()
            .map_err(|error| value("log.s3", error))?;
        Ok(Arc::new(store))
    }
}

impl Checked {
    /// How to open the log.
    pub(crate) fn log_config(&self) -> LogConfig {
        LogConfig {
            prefix: self.prefix.clone(),
            signer: Signer::parse(&self.key).expect("the key was parsed when it was read"),
            older_keys: self.older_keys.clone(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<(), String> {
        let dir = tempfile::tempdir().unwrap();
        let key = Signer::key_file("audit.example/v1", &[7; 32]).unwrap();
        std::fs::write(dir.path().join("key"), format!("{key}\n")).unwrap();
        let text = text.replace("DIR", dir.path().to_str().unwrap());
        let base = "origin = \"audit.example/v1\"\nsigning_key = \"DIR/key\"\n";
        let base = base.replace("DIR", dir.path().to_str().unwrap());
        let nats = "[nats]\ncreds = \"c\"\ntrust = \"t\"\n";
        let (top, rest) =
            text.split_once("[log]").map_or((text.as_str(), None), |(top, rest)| (top, Some(rest)));
        let log = rest.map_or(String::new(), |rest| format!("[log]{rest}"));
        let file = dir.path().join("config.toml");
        std::fs::write(&file, format!("{base}{top}\n{nats}{log}")).unwrap();
        let config: Config =
            hotcell_stage::config::load(&file, DEFAULTS).map_err(|error| error.to_string())?;
        config.check().map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn exactly_one_place_and_a_key_of_the_origin() {
        let folder = "[log]\nfolder = \"DIR/log\"\n";
        assert_eq!(check(folder), Ok(()));
        let refused = |text: &str, expect: &str| {
            let error = check(text).unwrap_err();
            assert!(error.contains(expect), "{error}");
        };
        refused("", "log");
        let s3 = "[log.s3]\nendpoint = \"http://127.0.0.1:1\"\nregion = \"r\"\nbucket = \"b\"\n\
            prefix = \"p\"\naccess_key_id = \"a\"\nsecret = \"DIR/key\"\n";
        assert_eq!(check(&format!("[log]\n{s3}")), Ok(()));
        // API-01: plain text is for loopback.
        let far = s3.replace("127.0.0.1:1", "s3.example.com");
        refused(&format!("[log]\n{far}"), "endpoint");
        let secured = far.replace("http:", "https:");
        assert_eq!(check(&format!("[log]\n{secured}")), Ok(()));
        refused(&format!("{folder}{s3}"), "either");
        refused(&format!("batch_records = 0\n{folder}"), "batch_records");
        refused(&format!("batch_ms = 60000\n{folder}"), "batch_ms");
        refused(&format!("older_keys = [\"x\"]\n{folder}"), "older_keys");
        refused(&format!("seed = 1\n{folder}"), "seed");
        let other = Signer::from_seed("other.example/v1", &[7; 32]).unwrap().verifier().to_string();
        refused(&format!("older_keys = [\"{other}\"]\n{folder}"), "origin");
    }
}

//! Configuration of the signer.

use crate::{
    destinations::Destinations,
    mint::Mint,
    presign::{Addressing, Endpoint, PresignKey},
};
use hotcell_schemas::{Digest, lease::LeaseKey, limits::UNCONFIRMED_TTL_SECS};
use hotcell_stage::{
    NatsConfig, ServiceError, TelemetryConfig,
    config::{ConfigError, read, read_key},
    service::ServiceConfig,
    tls::is_private,
};
use object_store::{ObjectStore, aws::AmazonS3Builder};
use serde::Deserialize;
use std::{path::PathBuf, sync::Arc};

/// The defaults, which are the manual.
pub const DEFAULTS: &str = include_str!("../config.default.toml");

/// The signer's configuration file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The broker.
    pub nats: NatsConfig,
    /// Logs and traces.
    pub telemetry: TelemetryConfig,
    /// The object store.
    pub storage: StorageConfig,
    /// File with the lease key.
    pub lease_key: PathBuf,
    /// File with the key that opens the secrets of tenants' destinations.
    #[serde(default)]
    pub destination_key: Option<PathBuf>,
    /// Worker images that get work.
    pub images: Vec<Digest>,
    /// Seconds between two reaps.
    pub reap_secs: u64,
    /// Seconds after which an upload that nobody confirmed is removed.
    pub unconfirmed_secs: u64,
    /// Workers that may wait at once.
    pub workers_max: usize,
    /// Requests in hand at once, for each verb.
    pub concurrency: usize,
}

/// The object store and the key to it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageConfig {
    /// `http://host:port` or `https://host`.
    pub endpoint: String,
    /// Region in the credential scope.
    pub region: String,
    /// The bucket.
    pub bucket: String,
    /// Public half of the key.
    pub access_key_id: String,
    /// File with the secret half.
    pub secret: PathBuf,
    /// How the bucket is named in URLs.
    pub addressing: AddressingConfig,
    /// Whether the store is tried, and a public bucket refused, before anything is served.
    pub check: bool,
}

/// How the bucket is named in URLs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AddressingConfig {
    /// In the path.
    Path,
    /// In the host name.
    Virtual,
}

/// The configuration as domain types.
pub(crate) struct Checked {
    pub(crate) mint: Mint,
    pub(crate) destinations: Destinations,
    pub(crate) lease_key: LeaseKey,
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) endpoint: Endpoint,
}

fn value(key: &'static str, rule: impl ToString) -> ServiceError {
    ServiceError::Config(ConfigError::Value { key, rule: rule.to_string() })
}

impl ServiceConfig for Config {
    fn telemetry(&self) -> &TelemetryConfig {
        &self.telemetry
    }
}

impl Config {
    fn destination_key(&self) -> Result<Option<[u8; 32]>, ConfigError> {
        self.destination_key.as_deref().map(|path| read_key("destination_key", path)).transpose()
    }

    /// Turns values into domain types; nothing has connected yet.
    pub(crate) fn check(&self) -> Result<Checked, ServiceError> {
        let storage = &self.storage;
        if self.unconfirmed_secs > UNCONFIRMED_TTL_SECS {
            let rule = format!("must be at most {UNCONFIRMED_TTL_SECS}");
            return Err(value("unconfirmed_secs", rule));
        }
        let secret = read(&storage.secret)?;
        let secret = secret.trim();
        let addressing = match storage.addressing {
            AddressingConfig::Path => Addressing::Path,
            AddressingConfig::Virtual => Addressing::Virtual,
        };
        if !is_private(&storage.endpoint) {
            return Err(value("storage.endpoint", "must be https://, or on loopback"));
        }
        hotcell_stage::blob::install_tls();
        let endpoint = Endpoint::parse(&storage.endpoint, addressing)
            .map_err(|error| value("storage.endpoint", error))?;
        let key = PresignKey::new(&storage.access_key_id, secret, &storage.region)
            .map_err(|error| value("storage.secret", error))?;
        let objects = AmazonS3Builder::new()
            .with_endpoint(&storage.endpoint)
            .with_allow_http(storage.endpoint.starts_with("http://"))
            .with_region(&storage.region)
            .with_bucket_name(&storage.bucket)
            .with_access_key_id(&storage.access_key_id)
            .with_secret_access_key(secret)
            .with_virtual_hosted_style_request(addressing == Addressing::Virtual)
            .build()
            .map_err(|error| value("storage", error))?;
        Ok(Checked {
            mint: Mint::new(key, endpoint.clone(), storage.bucket.clone()),
            endpoint,
            destinations: Destinations::new(self.destination_key()?),
            lease_key: LeaseKey::new(read_key("lease_key", &self.lease_key)?),
            objects: Arc::new(objects),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// API-01: bytes of tenants pass in plain text on loopback only.
    #[test]
    fn api_01_a_store_beyond_loopback_is_spoken_to_with_tls() {
        let dir = tempfile::tempdir().unwrap();
        let (secret, lease) = (dir.path().join("secret"), dir.path().join("lease"));
        std::fs::write(&secret, "a-secret-of-the-store").unwrap();
        std::fs::write(&lease, "ab".repeat(32)).unwrap();
        let check = |endpoint: &str| {
            let text = format!(
                "lease_key = {lease:?}\nimages = []\n[nats]\ncreds = \"c\"\ntrust = \"t\"\n\
                 [storage]\nendpoint = \"{endpoint}\"\n\
                 bucket = \"hotcell\"\naccess_key_id = \"signer\"\nsecret = {secret:?}\n"
            );
            let file = dir.path().join("signer.toml");
            std::fs::write(&file, text).unwrap();
            let defaults = include_str!("../config.default.toml");
            let config = hotcell_stage::config::load::<Config>(&file, defaults).unwrap();
            config.check().map(|_| ()).map_err(|error| error.to_string())
        };
        assert_eq!(check("http://127.0.0.1:9000"), Ok(()));
        assert_eq!(check("https://s3.example.com"), Ok(()));
        for far in ["http://10.0.0.1:9000", "http://store.example.com", "http://127.0.0.1.a.com"] {
            let error = check(far).unwrap_err();
            assert!(error.contains("storage.endpoint") && error.contains("loopback"), "{error}");
        }
    }
}

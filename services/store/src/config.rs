//! The store's configuration file and the checks that turn it into values worth trusting.
//!
//! Promises: unknown keys are errors, secrets are read from files and never printed, and nothing
//! can be made public: there is no setting for anonymous access, and a key without a secret or
//! with an empty id is refused (API-33).

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use hotcell_stage::TelemetryConfig;
use hotcell_stage::service::ServiceConfig;
use hotcell_stage::tls::{ServerTls, check_listen};
use s3s::path::check_bucket_name;
use serde::Deserialize;
use thiserror::Error;

/// What SigV4 allows at most for `X-Amz-Expires`: seven days, in seconds.
pub const PRESIGN_EXPIRES_SECS_HARD_MAX: u32 = 604_800;
/// Shortest secret that is accepted, in bytes; 16 random characters are more than 64 bits.
const SECRET_BYTES_MIN: usize = 16;
/// Longest secret file that is read, in bytes; AWS secrets have 40.
const SECRET_BYTES_MAX: usize = 256;
/// Most access keys: one for each role or tenant of one machine.
const ACCESS_KEYS_MAX: usize = 1024;
/// Most buckets that one store holds; each costs 256 directories.
pub(crate) const BUCKETS_MAX: usize = 64;

/// The configuration file, as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Address to listen on; port 0 picks a free one.
    pub listen: SocketAddr,
    /// File that gets the bound address (`127.0.0.1:41234\n`) once requests are accepted.
    pub listen_file: Option<PathBuf>,
    /// The certificate; without one, only loopback is listened on.
    #[serde(default)]
    pub tls: Option<ServerTls>,
    /// Directory that holds everything; only this process may use it.
    pub data_dir: PathBuf,
    /// Buckets that must exist; missing ones are created at start.
    pub buckets: Vec<String>,
    /// Region that credential scopes must name.
    pub region: String,
    /// Who may do what.
    pub access_keys: Vec<AccessKeyConfig>,
    /// Longest `X-Amz-Expires` that is honoured, in seconds.
    pub presign_expires_secs_max: u32,
    /// When a write is safe from a power cut.
    pub durability: Durability,
    /// Logs and traces.
    pub telemetry: TelemetryConfig,
}

impl ServiceConfig for Config {
    fn telemetry(&self) -> &TelemetryConfig {
        &self.telemetry
    }
}

/// One access key.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessKeyConfig {
    /// Public id, `[A-Za-z0-9_.-]+`.
    pub id: String,
    /// File that holds the secret; white space around it is ignored.
    pub secret_file: PathBuf,
    /// What the key may do; nothing else is allowed.
    pub allow: Vec<Grant>,
}

/// Operations on the keys of one bucket that start with a prefix.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Operations.
    pub ops: Vec<Op>,
    /// Bucket.
    pub bucket: String,
    /// Empty for the whole bucket, else it ends with `/`: `acme` must not cover `acme2/x`.
    #[serde(default)]
    pub prefix: String,
}

/// What an access key may be allowed to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// `GetObject`, `HeadObject`.
    Get,
    /// `PutObject`.
    Put,
    /// `DeleteObject`, `DeleteObjects`.
    Delete,
    /// `ListObjectsV2`, `HeadBucket`.
    List,
    /// `CreateBucket`.
    CreateBucket,
}

/// When a write is safe from a power cut.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum Durability {
    /// The file and its directory are synced before the answer.
    #[default]
    #[serde(rename = "always")]
    Always,
    /// The file system is synced each second: a power cut may lose that second.
    #[serde(rename = "1s")]
    EachSecond,
}

/// Why a configuration is refused. Paths are named, secrets are not.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A bucket name that S3 would not allow, or too many buckets.
    #[error("bucket {0:?} is not a valid bucket name, or there are more than 64")]
    Bucket(String),
    /// The region is empty or has characters that a credential scope cannot have.
    #[error("the region is malformed")]
    Region,
    /// Plain text beyond loopback.
    #[error("the address to listen on must be loopback, unless [tls] names a certificate")]
    PlainText,
    /// Zero, or above the seven days of SigV4.
    #[error("presign_expires_secs_max must be 1 to 604800")]
    PresignExpires,
    /// An id that is empty, malformed or given twice, or too many keys.
    #[error("access key {0:?} is malformed, given twice, or there are more than 1024")]
    AccessKey(String),
    /// A grant without operations or with a prefix that does not end with `/`.
    #[error("access key {0:?} has a grant without operations or with a prefix without final slash")]
    Grant(String),
    /// A secret file that cannot be read.
    #[error("cannot read the secret file {path}")]
    SecretFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A secret that is shorter than 16 bytes, longer than 256, or not printable ASCII.
    #[error("the secret in {0} is too short, too long or not printable")]
    Secret(PathBuf),
}

/// A secret; prints `[redacted]`.
#[derive(Clone)]
pub(crate) struct Secret(pub(crate) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// An access key with its secret in memory.
#[derive(Debug, Clone)]
pub(crate) struct AccessKey {
    pub(crate) secret: Secret,
    pub(crate) allow: Vec<Grant>,
}

impl Config {
    /// Checks everything and reads the secrets.
    pub(crate) fn access_keys(&self) -> Result<BTreeMap<String, AccessKey>, ConfigError> {
        self.check()?;
        let mut keys = BTreeMap::new();
        for key in &self.access_keys {
            let secret = read_secret(key)?;
            let value = AccessKey { secret, allow: key.allow.clone() };
            if keys.insert(key.id.clone(), value).is_some() {
                return Err(ConfigError::AccessKey(key.id.clone()));
            }
        }
        Ok(keys)
    }

    fn check(&self) -> Result<(), ConfigError> {
        check_listen(self.listen, self.tls.as_ref()).map_err(|_| ConfigError::PlainText)?;
        let bad_bucket = self.buckets.iter().find(|bucket| !check_bucket_name(bucket));
        if let Some(bucket) = bad_bucket.or(self.buckets.get(BUCKETS_MAX)) {
            return Err(ConfigError::Bucket(bucket.clone()));
        }
        if !is_word(&self.region) {
            return Err(ConfigError::Region);
        }
        if !(1..=PRESIGN_EXPIRES_SECS_HARD_MAX).contains(&self.presign_expires_secs_max) {
            return Err(ConfigError::PresignExpires);
        }
        if let Some(key) = self.access_keys.get(ACCESS_KEYS_MAX) {
            return Err(ConfigError::AccessKey(key.id.clone()));
        }
        for key in &self.access_keys {
            if !is_word(&key.id) {
                return Err(ConfigError::AccessKey(key.id.clone()));
            }
            let bad = |grant: &Grant| {
                let open_prefix = !grant.prefix.is_empty() && !grant.prefix.ends_with('/');
                grant.ops.is_empty() || open_prefix
            };
            if key.allow.iter().any(bad) {
                return Err(ConfigError::Grant(key.id.clone()));
            }
        }
        Ok(())
    }
}

fn is_word(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    !text.is_empty() && text.len() <= 128 && text.bytes().all(word)
}

fn read_secret(key: &AccessKeyConfig) -> Result<Secret, ConfigError> {
    let path = &key.secret_file;
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::SecretFile { path: path.clone(), source })?;
    let secret = text.trim();
    let length_ok = (SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&secret.len());
    if !length_ok || !secret.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(ConfigError::Secret(path.clone()));
    }
    Ok(Secret(secret.to_owned()))
}

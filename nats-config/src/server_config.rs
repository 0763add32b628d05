//! The broker's configuration file. Promises: operator mode, no anonymous login, no monitoring
//! port, no message tracing; limits are named. Pure.

use hotcell_schemas::limits::PAYLOAD_BYTES_MAX;
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

/// Bytes that wait for one slow client before it is cut. A pull of the auditor's whole window is
/// 12 MiB; a stalled client holds its publishers for as long as this takes to fill.
pub const PENDING_BYTES_MAX: u32 = 16 << 20;

/// Accounts that the resolver keeps.
pub const ACCOUNTS_MAX: u32 = 10_000;

/// What an acknowledged message survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Durability {
    /// Every acknowledged message was synced: nothing is lost in a power cut.
    #[default]
    #[serde(rename = "always")]
    Always,
    /// A power cut may lose the last second; right with three replicas.
    #[serde(rename = "1s")]
    OneSecond,
}

/// Not `always` or `1s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("durability must be 'always' or '1s'")]
pub struct DurabilityError;

impl Durability {
    /// The word in the command line and in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::OneSecond => "1s",
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Durability {
    type Err = DurabilityError;
    fn from_str(text: &str) -> Result<Self, DurabilityError> {
        match text {
            "always" => Ok(Self::Always),
            "1s" => Ok(Self::OneSecond),
            _ => Err(DurabilityError),
        }
    }
}

/// Files of TLS, as PEM: a server's, or a client's of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerTls {
    /// The authorities that may vouch for the other side.
    pub ca: PathBuf,
    /// Our certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Where and how the server runs.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Address; port 0 is a free one, which the server then writes into `ports_dir`.
    pub listen: SocketAddr,
    /// Folder of the streams.
    pub store_dir: PathBuf,
    /// When acknowledged messages are synced.
    pub durability: Durability,
    /// Folder for `nats-server_<pid>.ports` (JSON).
    pub ports_dir: Option<PathBuf>,
    /// File for the process id.
    pub pid_file: Option<PathBuf>,
    /// TLS 1.3 from the first byte, for clients with a certificate only; plain text when absent.
    pub tls: Option<BrokerTls>,
}

/// An account that the server knows from its start.
#[derive(Debug, Clone)]
pub struct Preload {
    /// Its public key.
    pub account: String,
    /// Its JWT.
    pub jwt: String,
}

/// The identity part of the file.
#[derive(Debug, Clone)]
pub struct ServerIdentity {
    /// The operator's JWT.
    pub operator: String,
    /// The system account's public key.
    pub system_account: String,
    /// Folder in which the server keeps the accounts that it is given while it runs.
    pub resolver_dir: PathBuf,
    /// SYS, PIPELINE, ENCODERS.
    pub preload: Vec<Preload>,
}

/// A path that the configuration cannot hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a path of the server's configuration is not printable UTF-8")]
pub struct PathError;

/// The file's text.
///
/// # Errors
/// [`PathError`].
pub fn render(identity: &ServerIdentity, options: &ServerOptions) -> Result<String, PathError> {
    let port = match options.listen.port() {
        0 => "-1".to_owned(),
        port => port.to_string(),
    };
    let host = match options.listen {
        SocketAddr::V4(addr) => addr.ip().to_string(),
        SocketAddr::V6(addr) => format!("[{}]", addr.ip()),
    };
    let preload: String = identity
        .preload
        .iter()
        .map(|account| format!("  {}: {}\n", account.account, account.jwt))
        .collect();
    let mut text = format!(
        "# Made by `hotcell nats init`; edits are lost.\n\
         server_name: \"hotcell\"\n\
         listen: \"{host}:{port}\"\n\
         debug: false\n\
         trace: false\n\
         max_payload: {PAYLOAD_BYTES_MAX}\n\
         max_pending: {PENDING_BYTES_MAX}\n\
         write_deadline: \"5s\"\n\n\
         operator: {}\n\
         system_account: {}\n\
         resolver {{\n  type: full\n  dir: {}\n  allow_delete: true\n  interval: \"2m\"\n  \
         limit: {ACCOUNTS_MAX}\n}}\n\
         resolver_preload {{\n{preload}}}\n\n\
         jetstream {{\n  store_dir: {}\n  sync_interval: {}\n}}\n",
        identity.operator,
        identity.system_account,
        quoted(&identity.resolver_dir)?,
        quoted(&options.store_dir)?,
        match options.durability {
            Durability::Always => "always",
            Durability::OneSecond => "\"1s\"",
        },
    );
    if let Some(tls) = &options.tls {
        text.push_str(&format!(
            "\ntls {{\n  cert_file: {}\n  key_file: {}\n  ca_file: {}\n  verify: true\n  \
             min_version: \"1.3\"\n  handshake_first: true\n}}\n",
            quoted(&tls.cert)?,
            quoted(&tls.key)?,
            quoted(&tls.ca)?,
        ));
    }
    if let Some(dir) = &options.ports_dir {
        text.push_str(&format!("ports_file_dir: {}\n", quoted(dir)?));
    }
    if let Some(file) = &options.pid_file {
        text.push_str(&format!("pid_file: {}\n", quoted(file)?));
    }
    Ok(text)
}

/// The path as a double-quoted string of the configuration's syntax.
fn quoted(path: &Path) -> Result<String, PathError> {
    let text = path.to_str().ok_or(PathError)?;
    if text.chars().any(char::is_control) {
        return Err(PathError);
    }
    Ok(format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")))
}

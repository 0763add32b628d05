//! The one-machine S3 endpoint: s3s for the wire protocol, a careful backend over a directory.
//!
//! Promises: what the presigned URLs of hotcell rely on holds here as it holds at AWS: a URL does
//! what was signed and nothing else, a create-only write wins once, bytes that do not match their
//! checksum are never seen, and nobody without a signature gets anything but 403.
//!
//! Refuses: `CopyObject`, ACLs, versions, tags, lifecycle, POST policies, anonymous access, and,
//! for now, multipart uploads. It is the default of one machine; in production any S3 takes its
//! place.
//!
//! - `guard`: refuses requests that carry more than their signature covers
//! - `access`: which key may do what
//! - `backend`, `upload`, `disk`, `meta`, `index`: the operations over a directory
//! - `server`: connections and the access log

mod access;
mod backend;
mod config;
mod disk;
pub mod guard;
mod index;
mod meta;
pub mod server;
mod upload;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hotcell_stage::tls::{Acceptor, TlsError};
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::service::S3ServiceBuilder;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use crate::config::{
    AccessKeyConfig, Config, ConfigError, Durability, Grant, Op, PRESIGN_EXPIRES_SECS_HARD_MAX,
};
pub use crate::disk::DiskError;

use crate::access::Keyring;
use crate::backend::Backend;
use crate::disk::Disk;
use crate::upload::{OBJECT_BYTES_MAX, blocking};

/// Longest XML body (`DeleteObjects`): a thousand keys of 1 KiB, and the markup.
const XML_BYTES_MAX: usize = 2 * 1024 * 1024;
/// How far a client's clock may be off, in seconds. A URL "from the future" lives that much
/// longer, so it is less than the 15 minutes of AWS.
const CLOCK_SKEW_SECS_MAX: u32 = 300;
/// How often written data is synced with `durability = "1s"`.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// Why the store does not start or has ended.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The configuration is refused.
    #[error("the configuration is not valid")]
    Config(#[from] ConfigError),
    /// The certificate cannot be used.
    #[error("the certificate cannot be used")]
    Tls(#[from] TlsError),
    /// The data directory cannot be used.
    #[error("the data directory cannot be used")]
    Disk(#[from] DiskError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The bound address cannot be written to `listen_file`.
    #[error("cannot write the bound address to {path}")]
    ListenFile {
        /// The configured file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A store that has its directory and its socket, and waits for [`Store::run`].
#[derive(Debug)]
pub struct Store {
    listener: TcpListener,
    tls: Option<Acceptor>,
    address: SocketAddr,
    listen_file: Option<PathBuf>,
    service: server::Guarded,
    disk: Arc<Disk>,
}

impl Store {
    /// Checks the configuration, opens the directory, creates missing buckets, binds the address.
    ///
    /// # Errors
    /// [`ServeError`] for the first step that fails; nothing is left running.
    pub async fn bind(config: Config) -> Result<Self, ServeError> {
        let (keys, disk) = {
            let config = config.clone();
            blocking(move || Ok(open(&config))).await??
        };
        let disk = Arc::new(disk);
        let keyring = Keyring::new(keys);
        let mut builder = S3ServiceBuilder::new(Backend::new(Arc::clone(&disk)));
        builder.set_auth(keyring.clone());
        builder.set_access(keyring);
        builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(s3_config()))));
        let policy = guard::Policy {
            region: config.region,
            presign_expires_secs_max: config.presign_expires_secs_max,
        };
        let service = server::Guarded::new(builder.build(), policy);
        let tls = config.tls.as_ref().map(Acceptor::new).transpose()?;
        let address = config.listen;
        let failed = |source| ServeError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, tls, address, listen_file: config.listen_file, service, disk })
    }

    /// The address that was bound; the port is never 0.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the token is cancelled, drains, and syncs what is not on disk yet.
    ///
    /// # Errors
    /// [`ServeError::ListenFile`] before the first request, [`ServeError::Disk`] when the last
    /// sync fails.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), ServeError> {
        if let Some(path) = &self.listen_file {
            announce(path, self.address)
                .map_err(|source| ServeError::ListenFile { path: path.clone(), source })?;
        }
        tracing::info!(address = %self.address, "store is ready");
        let mut background = JoinSet::new();
        let drained = CancellationToken::new();
        background.spawn(sync_each_second(Arc::clone(&self.disk), drained.clone()));
        server::accept(self.listener, self.tls, self.service, shutdown).await;
        // Not aborted: a sync that has begun must end before this returns.
        drained.cancel();
        while background.join_next().await.is_some() {}
        let disk = self.disk;
        blocking(move || disk.sync()).await?;
        tracing::info!("store has stopped");
        Ok(())
    }
}

/// Runs a store until the token is cancelled. Use [`Store::bind`] to learn the bound address.
///
/// # Errors
/// As [`Store::bind`] and [`Store::run`].
pub async fn serve(config: Config, shutdown: CancellationToken) -> Result<(), ServeError> {
    Store::bind(config).await?.run(shutdown).await
}

type Opened = (std::collections::BTreeMap<String, config::AccessKey>, Disk);

fn open(config: &Config) -> Result<Opened, ServeError> {
    let keys = config.access_keys()?;
    let disk = Disk::open(&config.data_dir, config.durability)?;
    for bucket in &config.buckets {
        disk.create_bucket(bucket)?;
    }
    Ok((keys, disk))
}

fn s3_config() -> S3Config {
    let mut config = S3Config::default();
    config.xml_max_body_size = XML_BYTES_MAX;
    config.post_object_max_file_size = OBJECT_BYTES_MAX;
    config.presigned_url_max_skew_time_secs = CLOCK_SKEW_SECS_MAX;
    config
}

/// Written beside and renamed, so a reader sees the whole line or no file.
fn announce(path: &Path, address: SocketAddr) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    std::fs::write(&beside, format!("{address}\n"))?;
    std::fs::rename(&beside, path)
}

async fn sync_each_second(disk: Arc<Disk>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(SYNC_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let disk = Arc::clone(&disk);
        if let Err(error) = blocking(move || disk.sync()).await {
            tracing::error!(%error, "storage cannot be synced");
        }
    }
}

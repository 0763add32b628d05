//! TLS at the edges of a process: the files of a client of the broker, and a listener whose
//! certificate, and whose clients' authorities, are replaced while it runs.
//!
//! Promises: TLS 1.2 or 1.3, and nothing older; a new certificate, or other authorities, hold
//! within [`LOOK_SECS`] seconds of their file changing, without a connection lost: also a session
//! of before is not taken up again. Files that do not read leave the old ones in place, all of
//! them, and say so. Refuses: a key that is not the certificate's; plain text anywhere but on
//! loopback.

use crate::config::ConfigError;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
    sign::{CertifiedKey, SingleCertAndKey},
};
use serde::Deserialize;
use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::either::Either;
use tracing::{info, warn};

/// A changed file is noticed after this long, in seconds, at the next handshake.
pub const LOOK_SECS: u64 = 2;

/// A client that does not end its handshake is cut after this long, in seconds.
pub const HANDSHAKE_SECS: u64 = 10;

/// What a client of the broker shows and trusts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientTls {
    /// Certificates of the authorities that may vouch for the broker, as PEM.
    pub ca: PathBuf,
    /// Our own certificate, as PEM.
    pub cert: PathBuf,
    /// Its key, as PEM.
    pub key: PathBuf,
}

/// What a listener shows, and whom it asks for a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerTls {
    /// The certificate and those up to its authority, as PEM.
    pub cert: PathBuf,
    /// Its key, as PEM.
    pub key: PathBuf,
    /// Authorities of clients, as PEM: who has no certificate of theirs is not served.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
}

/// Why a listener has no certificate.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing or no PEM.
    #[error("{path} is not a readable PEM file of {what}")]
    File {
        /// The file.
        path: PathBuf,
        /// `certificates` or `a private key`.
        what: &'static str,
    },
    /// The key is not the certificate's, or of a kind that is not known.
    #[error("the key in {0} is not the certificate's, or of an unknown kind")]
    Key(PathBuf),
    /// The authorities cannot verify anybody.
    #[error("{0} holds no authority that can verify clients")]
    Authorities(PathBuf),
}

/// Whether plain text may be spoken at `listen`: on loopback only.
///
/// # Errors
/// [`ConfigError::Value`] for any other address without TLS.
pub fn check_listen(listen: SocketAddr, tls: Option<&ServerTls>) -> Result<(), ConfigError> {
    if tls.is_some() || listen.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    let rule = "must be a loopback address unless [tls] names a certificate".to_owned();
    Err(ConfigError::Value { key: "listen", rule })
}

/// Whether nobody between us and `url` can listen: by TLS, or because it is on loopback.
#[must_use]
pub fn is_private(url: &str) -> bool {
    if url.starts_with("tls://") || url.starts_with("https://") {
        return true;
    }
    let host = url::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned));
    let Some(host) = host else { return false };
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// Takes connections as their handshakes end, by the files as they are.
#[derive(Clone)]
pub struct Acceptor {
    files: ServerTls,
    held: Arc<Mutex<Held>>,
}

/// What the files said when they were last read.
struct Held {
    acceptor: TlsAcceptor,
    changed: Changed,
    looked: Instant,
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acceptor")
    }
}

impl Acceptor {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`].
    ///
    /// # Panics
    /// When the TLS backend lacks TLS 1.2 and 1.3: it is compiled in.
    pub fn new(files: &ServerTls) -> Result<Self, TlsError> {
        // Before the read: a change while we read is seen at the next look.
        let changed = changed(files);
        let held = Held { acceptor: acceptor(files)?, changed, looked: Instant::now() };
        Ok(Self { files: files.clone(), held: Arc::new(Mutex::new(held)) })
    }

    fn current(&self) -> TlsAcceptor {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.looked.elapsed() < Duration::from_secs(LOOK_SECS) {
            return held.acceptor.clone();
        }
        held.looked = Instant::now();
        let found = changed(&self.files);
        if found != held.changed {
            match acceptor(&self.files) {
                Ok(acceptor) => {
                    (held.acceptor, held.changed) = (acceptor, found);
                    info!(path = %self.files.cert.display(), "TLS files replaced");
                }
                // Half of a replacement, perhaps: the next look tries again.
                Err(error) => warn!(%error, "the TLS files in use stay"),
            }
        }
        held.acceptor.clone()
    }

    /// Ends the handshake of a connection.
    ///
    /// # Errors
    /// The handshake failed, or took longer than [`HANDSHAKE_SECS`].
    pub async fn accept(&self, socket: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let within = Duration::from_secs(HANDSHAKE_SECS);
        let accepted = tokio::time::timeout(within, self.current().accept(socket)).await;
        accepted.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// A connection, with TLS or, on loopback, without.
pub type Stream = Either<TcpStream, TlsStream<TcpStream>>;

/// The connection behind `socket`: at once, or when its handshake has ended.
///
/// # Errors
/// As [`Acceptor::accept`].
pub async fn open(acceptor: Option<&Acceptor>, socket: TcpStream) -> io::Result<Stream> {
    match acceptor {
        None => Ok(Either::Left(socket)),
        Some(acceptor) => Ok(Either::Right(acceptor.accept(socket).await?)),
    }
}

/// What the files say now. It remembers no session: whoever comes back is looked at again.
fn acceptor(files: &ServerTls) -> Result<TlsAcceptor, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the backend has both versions");
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let unfit = |_| TlsError::Authorities(path.clone());
            let roots = Arc::new(authorities(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            builder.with_client_cert_verifier(verifier.build().map_err(unfit)?)
        }
    };
    let shown = SingleCertAndKey::from(read(files)?);
    let mut config = builder.with_cert_resolver(Arc::new(shown));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|_| TlsError::Authorities(path.to_owned()))?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unread = || TlsError::File { path: path.to_owned(), what: "certificates" };
    let found = CertificateDer::pem_file_iter(path).map_err(|_| unread())?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(|_| unread())?;
    if found.is_empty() { Err(unread()) } else { Ok(found) }
}

fn read(files: &ServerTls) -> Result<CertifiedKey, TlsError> {
    let unread = |_| TlsError::File { path: files.key.clone(), what: "a private key" };
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(unread)?;
    let found = certificates(&files.cert)?;
    let made = CertifiedKey::from_der(found, key, &ring::default_provider());
    made.map_err(|_| TlsError::Key(files.key.clone()))
}

/// When each of the files was last changed.
type Changed = [Option<SystemTime>; 3];

fn changed(files: &ServerTls) -> Changed {
    let of = |path: &Path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    [of(&files.cert), of(&files.key), files.client_ca.as_deref().and_then(of)]
}

//! One connection to the broker, with the identity that signs for it.
//!
//! Promises: an unreadable credential or an unreachable broker is a sentence that says what to do.
//! Refuses: to start with a login that `trust.json` does not name (workers excepted: the broker
//! itself states who they are).
//!
//! A login ends within a day. Before that its file holds a new token for the same key, and every
//! connection is made with what the file holds at that moment: an end is a reconnect, and what was
//! in hand is repeated. Refuses: a file that holds another key than the one that signs for us.

use crate::{
    config::NatsConfig,
    retry::{Policy, retry},
    tls::is_private,
};
use async_nats::{Auth, AuthError, ConnectOptions, Event, jetstream};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hotcell_schemas::{Role, Trust};
use nkeys::KeyPair;
use std::{
    future::ready,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tracing::{debug, error, warn};

/// A broker request is given up after this long, in seconds.
const REQUEST_SECS: u64 = 5;

/// A process that ends waits this long for the broker to take its last words, in seconds.
const FLUSH_SECS: u64 = 2;

/// The broker as seen by one login.
#[derive(Clone)]
pub struct Bus {
    pub(crate) client: async_nats::Client,
    pub(crate) jetstream: jetstream::Context,
    pub(crate) key: Arc<KeyPair>,
    pub(crate) trust: Arc<Trust>,
    role: Role,
    name: Arc<str>,
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bus").field("role", &self.role).field("name", &self.name).finish()
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The credential or trust file is unreadable or malformed. Exit 64.
    #[error("{path} is not a readable {what}: write it with `hotcell nats init`")]
    File {
        /// The file.
        path: PathBuf,
        /// `credential file` or `trust list`.
        what: &'static str,
    },
    /// The login's key is not the role's. Exit 64.
    #[error("{path} is not a login of role {role}: its key is not in the trust list for that role")]
    WrongRole {
        /// The credential file.
        path: PathBuf,
        /// The role that this process needs.
        role: Role,
    },
    /// The broker would be spoken to in plain text, beyond this machine. Exit 64.
    #[error("the broker at {url} is not on loopback: use tls:// and [nats.tls]")]
    PlainText {
        /// The address.
        url: String,
    },
    /// The broker does not answer. Exit 69.
    #[error("the broker at {url} cannot be reached: start it, or correct nats.url")]
    Unreachable {
        /// The address.
        url: String,
        /// The cause.
        #[source]
        source: Box<async_nats::ConnectError>,
    },
    /// The broker refuses the login. Exit 69.
    #[error("the broker at {url} refuses the login in {path}: it is expired, revoked or foreign")]
    Refused {
        /// The address.
        url: String,
        /// The credential file.
        path: PathBuf,
    },
}

/// The two halves of a credential file.
struct Login {
    jwt: String,
    key: KeyPair,
    name: String,
}

/// Why a connection is not tried again with what the file holds now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum RenewalError {
    /// It does not read; it may be being written.
    #[error("the credential file does not read")]
    Unreadable,
    /// Our messages are signed by the key that we started with.
    #[error("the credential file holds another key: start the service again")]
    OtherKey,
    /// The key has no private half.
    #[error("the key cannot sign")]
    Sign,
    /// What the broker wants signed is more than a challenge.
    #[error("the broker's challenge is none")]
    Challenge,
}

/// Longest challenge of a broker that is signed, in bytes: nats-server sends 15.
const NONCE_BYTES_MAX: usize = 64;

/// Whether `nonce` can be a challenge and nothing else that this key signs: a token has dots, and a
/// sealed message begins with a zero byte.
fn is_challenge(nonce: &[u8]) -> bool {
    let safe = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=NONCE_BYTES_MAX).contains(&nonce.len()) && nonce.iter().all(safe)
}

fn between<'a>(text: &'a str, begin: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(begin)?;
    Some(rest.split_once(end)?.0.trim())
}

fn read_login(path: &Path) -> Option<Login> {
    let text = std::fs::read_to_string(path).ok()?;
    let jwt = between(&text, "-----BEGIN NATS USER JWT-----", "------END NATS USER JWT")?;
    let seed = between(&text, "-----BEGIN USER NKEY SEED-----", "------END USER NKEY SEED")?;
    let key = KeyPair::from_seed(seed).ok()?;
    let claims = URL_SAFE_NO_PAD.decode(jwt.split('.').nth(1)?).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
    let name = claims.get("name")?.as_str()?.to_owned();
    Some(Login { key, name, jwt: jwt.to_owned() })
}

/// The answer to the broker's challenge, with the token that the file holds now.
fn signed_in(path: &Path, own: &KeyPair, nonce: &[u8]) -> Result<Auth, RenewalError> {
    let login = read_login(path).ok_or(RenewalError::Unreadable)?;
    if login.key.public_key() != own.public_key() {
        return Err(RenewalError::OtherKey);
    }
    if !is_challenge(nonce) {
        return Err(RenewalError::Challenge);
    }
    let mut auth = Auth::new();
    auth.jwt = Some(login.jwt);
    auth.signature = Some(own.sign(nonce).map_err(|_| RenewalError::Sign)?);
    Ok(auth)
}

impl Bus {
    /// Connects as `role`.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn connect(role: Role, config: &NatsConfig) -> Result<Self, BusError> {
        if config.tls.is_none() && !is_private(&config.url) {
            return Err(BusError::PlainText { url: config.url.clone() });
        }
        let file = |what| move || BusError::File { path: config.creds.clone(), what };
        let login = read_login(&config.creds).ok_or_else(file("credential file"))?;
        let trust: Option<Trust> =
            std::fs::read(&config.trust).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let trust = trust
            .ok_or_else(|| BusError::File { path: config.trust.clone(), what: "trust list" })?;
        let speaks_for = trust.role_of(&login.key.public_key());
        let listed = !matches!(role, Role::Encoder | Role::Tenant);
        if listed && speaks_for != Some(role) || !listed && speaks_for.is_some() {
            return Err(BusError::WrongRole { path: config.creds.clone(), role });
        }
        let key = Arc::new(login.key);
        let options = secured(options(role, &login.name, &config.creds, &key), config);
        let transient = |error: &async_nats::ConnectError| {
            error.kind() != async_nats::ConnectErrorKind::AuthorizationViolation
        };
        let client = retry(Policy::CONNECT, transient, || options.clone().connect(&config.url))
            .await
            .map_err(|source| connect_error(config, source))?;
        let mut jetstream = jetstream::new(client.clone());
        jetstream.set_timeout(Duration::from_secs(REQUEST_SECS));
        Ok(Self { client, jetstream, key, trust: Arc::new(trust), role, name: login.name.into() })
    }

    /// The role of this process.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// The login's name: the role, or the worker's own name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The public key that signs for this process.
    #[must_use]
    pub fn public_key(&self) -> String {
        self.key.public_key()
    }

    /// Signs a token of this process's own (RFC 7515 §5.1), given as `header.claims`; `None` for a
    /// text of any other form. A sealed message begins with the length of its domain, so that no
    /// signature of one can be taken for the other's.
    #[must_use]
    pub fn sign_token(&self, unsigned: &str) -> Option<Vec<u8>> {
        unsigned.starts_with("eyJ").then(|| self.key.sign(unsigned.as_bytes()).ok())?
    }

    /// The keys of the roles.
    #[must_use]
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// The connection itself, for the few things that have no wrapper: the signer's consumers.
    #[must_use]
    pub fn client(&self) -> &async_nats::Client {
        &self.client
    }

    /// Whether the connection is up at this moment.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }

    /// Sends what is buffered and waits until the socket took it, for two seconds at most: without
    /// a broker the client would wait for one.
    pub async fn flush(&self) {
        let flushed = tokio::time::timeout(Duration::from_secs(FLUSH_SECS), self.client.flush());
        match flushed.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "flush failed"),
            Err(_) => warn!("the broker is away; what was not acknowledged is repeated later"),
        }
    }
}

fn connect_error(config: &NatsConfig, source: async_nats::ConnectError) -> BusError {
    if source.kind() == async_nats::ConnectErrorKind::AuthorizationViolation {
        return BusError::Refused { url: config.url.clone(), path: config.creds.clone() };
    }
    BusError::Unreachable { url: config.url.clone(), source: Box::new(source) }
}

/// The broker's TLS, from the first byte on: it never speaks to us in plain text, not even to say
/// who it is.
fn secured(options: ConnectOptions, config: &NatsConfig) -> ConnectOptions {
    let Some(tls) = &config.tls else { return options };
    options
        .require_tls(true)
        .tls_first()
        .add_root_certificates(tls.ca.clone())
        .add_client_certificate(tls.cert.clone(), tls.key.clone())
}

fn options(role: Role, name: &str, creds: &Path, key: &Arc<KeyPair>) -> ConnectOptions {
    let (creds, key) = (creds.to_path_buf(), Arc::clone(key));
    ConnectOptions::with_auth_callback(move |nonce| {
        ready(signed_in(&creds, &key, &nonce).map_err(AuthError::new))
    })
    .name(format!("{role}-{name}"))
    .custom_inbox_prefix(format!("_INBOX_{name}"))
    .request_timeout(Some(Duration::from_secs(REQUEST_SECS)))
    .connection_timeout(Duration::from_secs(REQUEST_SECS))
    // A login that has ended would otherwise be tried in a hot loop.
    .reconnect_delay_callback(|attempts| {
        let exponent = u32::try_from(attempts.min(6)).unwrap_or(6);
        Duration::from_millis(50 * 2_u64.pow(exponent))
    })
    .event_callback(|event| async move {
        match event {
            Event::Connected => debug!("broker connected"),
            Event::Disconnected => warn!("broker disconnected"),
            Event::SlowConsumer(_) => warn!("broker reports a slow consumer"),
            Event::ServerError(error) => error!(%error, "broker refused an act"),
            Event::ClientError(error) => warn!(%error, "broker connection failed"),
            Event::LameDuckMode => warn!("broker is shutting down"),
            Event::Draining | Event::Closed => debug!("broker connection closing"),
        }
    })
}

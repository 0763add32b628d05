//! The keys of one issuer. Promises: keys are at most [`FRESH`] old while the issuer answers; the
//! last good ones serve while it does not, up to [`KEEP`]; strangers' tokens make it ask at most
//! once per [`UNKNOWN_EVERY`], however many there are. Refuses: redirects, proxies from the
//! environment, plain HTTP but on loopback, and documents over [`DOCUMENT_BYTES_MAX`].

use crate::jwt::{Algorithm, Object, PublicKey};
use reqwest::{Client, StatusCode};
use serde_json::Value;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tracing::{info, warn};
use url::{Host, Url};

/// Age at which keys are fetched again: the longest that a withdrawn key is still believed.
pub const FRESH: Duration = Duration::from_secs(300);

/// Age at which keys are no longer used although the issuer does not answer: a day of repairs.
pub const KEEP: Duration = Duration::from_secs(86_400);

/// Pause between two questions because of a key that is not known.
pub const UNKNOWN_EVERY: Duration = Duration::from_secs(30);

/// Pause after a failed question while there are no keys at all.
const AGAIN_EMPTY: Duration = Duration::from_secs(1);

/// Pause after a failed question while the last good keys serve.
const AGAIN: Duration = Duration::from_secs(30);

/// Largest document of an issuer, in bytes.
const DOCUMENT_BYTES_MAX: usize = 1 << 18;

/// Keys of one issuer at most: each is tried for a token that names none.
const KEYS_MAX: usize = 64;

/// Time for one document, in seconds.
const DOCUMENT_SECS: u64 = 5;

/// Why an issuer's keys were not fetched. Holds no URL.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No answer, or not in time.
    #[error("the issuer does not answer")]
    Unreachable(#[source] reqwest::Error),
    /// Another status than 200.
    #[error("the issuer answers status {0}")]
    Status(StatusCode),
    /// Over the bound.
    #[error("the issuer's document is too large")]
    TooLarge,
    /// Not the JSON of such a document.
    #[error("the issuer's document is malformed")]
    Malformed,
    /// The metadata are of another issuer (OpenID Connect Discovery §4.3).
    #[error("the issuer's metadata name another issuer")]
    OtherIssuer,
    /// The metadata name an address that is neither HTTPS nor, for an issuer there, on loopback.
    #[error("the issuer's keys are at an address that is not allowed")]
    Address,
}

/// What is known of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// It.
    Known(Arc<PublicKey>),
    /// The issuer has no such key.
    Unknown,
    /// Nothing is known, and the issuer does not answer.
    Away,
}

#[derive(Debug)]
struct Named {
    kid: Option<String>,
    key: Arc<PublicKey>,
}

/// The keys that were fetched, and when what was tried.
#[derive(Debug, Default)]
struct Kept {
    keys: Vec<Named>,
    fetched: Option<Instant>,
    failed: Option<Instant>,
    asked_unknown: Option<Instant>,
}

/// What to do for one token.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Done(Lookup),
    /// Ask the issuer; meanwhile, and when that fails, this.
    Ask(Lookup),
}

impl Kept {
    fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Option<Arc<PublicKey>> {
        let mut fit = self.keys.iter().filter(|it| {
            it.key.suits(algorithm) && kid.is_none_or(|kid| it.kid.as_deref() == Some(kid))
        });
        let first = fit.next()?;
        // A token that names no key is believed when there is no choice.
        (kid.is_some() || fit.next().is_none()).then(|| Arc::clone(&first.key))
    }

    fn next(&self, kid: Option<&str>, algorithm: Algorithm, now: Instant) -> Next {
        let since = |at: Option<Instant>| at.map(|at| now.saturating_duration_since(at));
        let over = |at, pause| since(at).is_none_or(|age| age >= pause);
        let Some(age) = since(self.fetched).filter(|age| *age < KEEP) else {
            return match over(self.failed, AGAIN_EMPTY) {
                true => Next::Ask(Lookup::Away),
                false => Next::Done(Lookup::Away),
            };
        };
        let may_ask = over(self.failed, AGAIN);
        match self.find(kid, algorithm) {
            Some(key) if age >= FRESH && may_ask => Next::Ask(Lookup::Known(key)),
            Some(key) => Next::Done(Lookup::Known(key)),
            None if may_ask && (age >= FRESH || over(self.asked_unknown, UNKNOWN_EVERY)) => {
                Next::Ask(Lookup::Unknown)
            }
            None => Next::Done(Lookup::Unknown),
        }
    }
}

/// The keys of one issuer.
#[derive(Debug)]
pub struct Keys {
    issuer: String,
    /// Where keys are, when the configuration says it.
    jwks: Option<Url>,
    client: Client,
    kept: Mutex<Kept>,
    asking: tokio::sync::Mutex<()>,
}

/// Whether an issuer may be asked at `url`: over HTTPS, or on this machine.
#[must_use]
pub fn allowed(url: &Url) -> bool {
    url.scheme() == "https" || is_plain_loopback(url)
}

fn is_plain_loopback(url: &Url) -> bool {
    let on_loopback = match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    url.scheme() == "http" && on_loopback
}

impl Keys {
    /// The keys of `issuer`, at `jwks` or where its metadata say.
    #[must_use]
    pub fn new(issuer: &str, jwks: Option<Url>, client: Client) -> Self {
        Self {
            issuer: issuer.to_owned(),
            jwks,
            client,
            kept: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        }
    }

    /// The key called `kid` for signatures of `algorithm`.
    pub async fn get(&self, kid: Option<&str>, algorithm: Algorithm) -> Lookup {
        let held = match self.look(kid, algorithm) {
            Next::Done(lookup) => return lookup,
            Next::Ask(held) => held,
        };
        let _one = match &held {
            // Somebody asks already: what there is serves meanwhile.
            Lookup::Known(_) => match self.asking.try_lock() {
                Ok(guard) => guard,
                Err(_) => return held,
            },
            Lookup::Unknown | Lookup::Away => self.asking.lock().await,
        };
        let unknown = match self.look(kid, algorithm) {
            Next::Done(lookup) => return lookup,
            Next::Ask(held) => held == Lookup::Unknown,
        };
        let fetched = self.fetch().await;
        let now = Instant::now();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if unknown {
            kept.asked_unknown = Some(now);
        }
        match fetched {
            Ok(keys) => {
                info!(issuer = self.issuer, keys = keys.len(), "keys of an issuer fetched");
                (kept.keys, kept.fetched, kept.failed) = (keys, Some(now), None);
                kept.find(kid, algorithm).map_or(Lookup::Unknown, Lookup::Known)
            }
            Err(error) => {
                kept.failed = Some(now);
                let error = hotcell_stage::service::describe(&error);
                warn!(issuer = self.issuer, %error, "keys of an issuer cannot be fetched");
                // An unknown key may be a new one: nobody can tell now.
                if held == Lookup::Unknown { Lookup::Away } else { held }
            }
        }
    }

    fn look(&self, kid: Option<&str>, algorithm: Algorithm) -> Next {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.next(kid, algorithm, Instant::now())
    }

    async fn fetch(&self) -> Result<Vec<Named>, FetchError> {
        let jwks = match &self.jwks {
            Some(url) => url.clone(),
            None => self.discover().await?,
        };
        let document = self.document(jwks).await?;
        let keys = document.0.get("keys").and_then(Value::as_array);
        let keys = keys.ok_or(FetchError::Malformed)?;
        // Keys of other kinds, and for other uses, are not ours to judge. None left is an answer: the
        // issuer has withdrawn them all.
        let usable = keys.iter().take(KEYS_MAX).filter_map(|jwk| {
            let jwk = jwk.as_object()?;
            let key = Arc::new(PublicKey::from_jwk(jwk).ok()?);
            let kid = jwk.get("kid").and_then(Value::as_str).map(str::to_owned);
            Some(Named { kid, key })
        });
        Ok(usable.collect())
    }

    /// Where the issuer says that its keys are (OpenID Connect Discovery §4).
    async fn discover(&self) -> Result<Url, FetchError> {
        let issuer = self.issuer.trim_end_matches('/');
        let at = Url::parse(&format!("{issuer}/.well-known/openid-configuration"));
        let at = at.map_err(|_| FetchError::Address)?;
        let plain = is_plain_loopback(&at);
        let metadata = self.document(at).await?;
        if metadata.text("issuer") != Some(&self.issuer) {
            return Err(FetchError::OtherIssuer);
        }
        let jwks = metadata.text("jwks_uri").and_then(|uri| Url::parse(uri).ok());
        let jwks = jwks.ok_or(FetchError::Malformed)?;
        // An issuer elsewhere has no business on this machine.
        if jwks.scheme() == "https" || (plain && is_plain_loopback(&jwks)) {
            return Ok(jwks);
        }
        Err(FetchError::Address)
    }

    async fn document(&self, at: Url) -> Result<Object, FetchError> {
        let unreachable = |error: reqwest::Error| FetchError::Unreachable(error.without_url());
        let request = self.client.get(at).timeout(Duration::from_secs(DOCUMENT_SECS));
        let mut response = request.send().await.map_err(unreachable)?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if bytes.len() + chunk.len() > DOCUMENT_BYTES_MAX {
                return Err(FetchError::TooLarge);
            }
            bytes.extend_from_slice(&chunk);
        }
        Object::parse(&bytes).map_err(|_| FetchError::Malformed)
    }
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;

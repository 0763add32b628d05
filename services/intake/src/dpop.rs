//! Proofs that the sender of a token holds the key that it is bound to (RFC 9449).
//!
//! Promises: a proof is for one method, one URL, one token and one minute, and is taken once, by
//! all replicas together. Refuses: keys with private parts, symmetric algorithms, URLs other than
//! the configured ones (the `Host` header is the sender's own word), and a proof that it cannot
//! remember.

use crate::jwt::{Algorithm, JwtError, PublicKey, Unverified, encoded};
use hotcell_schemas::{Digest, TenantId, UnixMs};
use hotcell_stage::kv::{Bucket, KvError};
use http::HeaderMap;
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Instant,
};
use url::Url;

/// A proof is believed this long before and after its `iat`, in seconds. Their sum is less than the
/// life of the bucket that remembers proofs (RFC 9449 §11.1).
pub const WINDOW_SECS: u64 = 60;

/// Longest `jti` of a proof, in bytes: some write a UUID twice.
const JTI_BYTES_MAX: usize = 256;

/// Proofs of one tenant that a process remembers within [`COUNT_SECS`]: a thousand a second, as the
/// quickest plan has requests. Each is some 200 bytes in the broker, so these are 60 MB. Counted
/// before the plan's rate is: what is remembered must not wait for a request to be granted.
pub const PER_TENANT_MAX: u32 = 300_000;

/// Proofs are counted anew after this long, in seconds: the life of the bucket.
const COUNT_SECS: u64 = 300;

/// Tenants whose proofs are counted: as many as a process serves in five minutes.
const COUNTED_MAX: usize = 65_536;

/// The algorithms of proofs, as challenges list them.
pub const ALGORITHMS: &str = "ES256 EdDSA PS256 RS256";

/// Why a proof is not believed. Constant texts, for the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DpopFault {
    /// The scheme is `DPoP`, or the token is bound, and there is no proof.
    #[error("no DPoP proof")]
    Missing,
    /// Two headers: someone in between and we could pick different ones.
    #[error("more than one DPoP proof")]
    Several,
    /// Not a signed token of a key that it carries.
    #[error("a DPoP proof: {0}")]
    Token(JwtError),
    /// `typ` is not `dpop+jwt`, or a required member is missing or malformed.
    #[error("a DPoP proof that lacks a required member")]
    Malformed,
    /// `htm` or `htu` is of another request.
    #[error("a DPoP proof of another request")]
    OtherRequest,
    /// `iat` is more than a minute away.
    #[error("a DPoP proof of another time")]
    OtherTime,
    /// `ath` is of another token.
    #[error("a DPoP proof of another token")]
    OtherToken,
    /// The token is bound to another key.
    #[error("a DPoP proof by a key that the token is not bound to")]
    OtherKey,
    /// It was used before.
    #[error("a DPoP proof that was used before")]
    Replayed,
    /// More of one tenant are remembered than any plan has requests for.
    #[error("more DPoP proofs than are remembered")]
    TooMany,
    /// The token is bound to a key, and was sent as `Bearer`: whoever sends it may have stolen it.
    #[error("a bound token sent as Bearer")]
    BoundAsBearer,
    /// The scheme is `DPoP`, and the token is bound to no key.
    #[error("a DPoP proof for a token that is not bound")]
    Unbound,
    /// The operator has not said at which URLs clients see this API.
    #[error("a DPoP proof, without `external_urls` in the configuration")]
    NotConfigured,
}

/// What a proof must be of.
#[derive(Debug, Clone, Copy)]
pub struct Expect<'a> {
    /// The request's method.
    pub method: &'a str,
    /// The request's path, as sent.
    pub path: &'a str,
    /// Base URLs at which clients see this API.
    pub bases: &'a [Url],
    /// The access token.
    pub token: &'a str,
    /// The thumbprint that the token names (RFC 9449 §6.1).
    pub jkt: &'a str,
    /// Now.
    pub now: UnixMs,
}

/// How many proofs of each tenant were remembered by this process.
#[derive(Debug, Default)]
pub struct Counts(Mutex<HashMap<TenantId, (Instant, u32)>>);

impl Counts {
    /// Whether one more of the tenant may be remembered; it is counted.
    pub fn takes(&self, tenant: &TenantId, now: Instant) -> bool {
        let is_old = |since: Instant| now.duration_since(since).as_secs() >= COUNT_SECS;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= COUNTED_MAX && !all.contains_key(tenant) {
            all.retain(|_, (since, _)| !is_old(*since));
            if all.len() >= COUNTED_MAX {
                return false;
            }
        }
        let (since, count) = all.entry(tenant.clone()).or_insert((now, 0));
        if is_old(*since) {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        *count <= PER_TENANT_MAX
    }
}

/// A good proof, which may have been used before.
#[derive(Debug, PartialEq, Eq)]
pub struct Proof {
    /// What is remembered of it: a hash, because the sender chose what is in it.
    key: String,
}

/// The one proof in `headers`.
///
/// # Errors
/// `Missing`, `Several`, `Malformed`.
pub fn header(headers: &HeaderMap) -> Result<&str, DpopFault> {
    let mut values = headers.get_all("dpop").iter();
    let value = values.next().ok_or(DpopFault::Missing)?;
    if values.next().is_some() {
        return Err(DpopFault::Several);
    }
    value.to_str().map_err(|_| DpopFault::Malformed)
}

/// Checks `text` by RFC 9449 §4.3.
///
/// # Errors
/// [`DpopFault`], never `Replayed`: see [`remember`].
pub fn check(text: &str, expect: Expect<'_>) -> Result<Proof, DpopFault> {
    let token = Unverified::parse(text).map_err(DpopFault::Token)?;
    if !token.is_type("dpop+jwt") {
        return Err(DpopFault::Malformed);
    }
    let jwk = token.header().0.get("jwk").and_then(|jwk| jwk.as_object());
    let key = PublicKey::from_jwk(jwk.ok_or(DpopFault::Malformed)?).map_err(DpopFault::Token)?;
    let claims = token.verify(&key, &Algorithm::ALL).map_err(DpopFault::Token)?;
    let text = |name| claims.text(name).ok_or(DpopFault::Malformed);
    if text("htm")? != expect.method || !is_of(text("htu")?, expect.path, expect.bases) {
        return Err(DpopFault::OtherRequest);
    }
    let iat = claims.number("iat").ok_or(DpopFault::Malformed)?;
    if iat.abs_diff(expect.now.0 / 1000) > WINDOW_SECS {
        return Err(DpopFault::OtherTime);
    }
    if text("ath")? != encoded(Digest::of(expect.token.as_bytes()).as_bytes()) {
        return Err(DpopFault::OtherToken);
    }
    let (jkt, jti) = (key.thumbprint(), text("jti")?);
    if jkt != expect.jkt {
        return Err(DpopFault::OtherKey);
    }
    if jti.is_empty() || jti.len() > JTI_BYTES_MAX {
        return Err(DpopFault::Malformed);
    }
    // A thumbprint has no dot, so no two pairs make the same text.
    Ok(Proof { key: hex::encode(Digest::of(format!("{jkt}.{jti}").as_bytes()).as_bytes()) })
}

/// Whether `htu` is `path` at one of `bases`, without query and fragment, after the normal forms
/// of RFC 3986 §6.2.2 and §6.2.3, which parsing gives.
fn is_of(htu: &str, path: &str, bases: &[Url]) -> bool {
    let Ok(mut htu) = Url::parse(htu) else { return false };
    htu.set_query(None);
    htu.set_fragment(None);
    bases.iter().any(|base| {
        let base = base.as_str().trim_end_matches('/');
        Url::parse(&format!("{base}{path}")).is_ok_and(|expected| expected == htu)
    })
}

/// Takes a proof, once among all replicas: the record can be made only once.
///
/// # Errors
/// `Ok(Err(Replayed))` when it was taken before; [`KvError`] when that cannot be told, which is no
/// reason to believe it.
pub async fn remember(
    proofs: &Bucket,
    proof: &Proof,
    now: UnixMs,
) -> Result<Result<(), DpopFault>, KvError> {
    match proofs.create(&proof.key, &now).await {
        Ok(_) => Ok(Ok(())),
        Err(KvError::Conflict) => Ok(Err(DpopFault::Replayed)),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[path = "dpop_tests.rs"]
mod tests;

//! What an access token must be to be believed, after its signature (RFC 9068 §4). Pure.
//!
//! Promises: what a token does not say counts against it: no `acr` is no assurance, no `auth_time`
//! is long ago. Refuses: ID tokens, tokens for others, and tokens bound by a means that is not
//! checked here.

use super::TokenFault;
use crate::jwt::Object;
use hotcell_schemas::UnixMs;
use serde_json::Value;

/// The type of access tokens (RFC 9068 §2.1).
pub const TYPE: &str = "at+jwt";

/// Longest name of a person, a client or a token, in bytes (OpenID Connect Core §2, `sub`).
const NAME_BYTES_MAX: usize = 255;

/// What one issuer's tokens are held against.
#[derive(Debug, Clone)]
pub struct Profile {
    /// `iss`, exactly.
    pub issuer: String,
    /// One of `aud`.
    pub audience: String,
    /// By how much clocks may differ, in seconds.
    pub clock_skew_secs: u64,
    /// Longest time from `iat` to `exp`, in seconds.
    pub lifetime_secs_max: u64,
    /// Values of `acr` that mean a second factor.
    pub mfa_acr: Vec<String>,
    /// Values of `amr` that mean a second factor.
    pub mfa_amr: Vec<String>,
}

/// A token that is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessToken {
    /// `sub`.
    pub subject: String,
    /// `client_id`.
    pub client: String,
    /// `jti`.
    pub session: String,
    /// `exp`, and by how much clocks may differ.
    pub ends: UnixMs,
    /// `acr`.
    pub acr: Option<String>,
    /// `auth_time`.
    pub auth_time: Option<UnixMs>,
    /// Whether a second factor was shown.
    pub mfa: bool,
    /// The key that it is bound to (RFC 9449 §6.1).
    pub jkt: Option<String>,
    /// Whether nobody but the client is behind it (RFC 9068 §5): `sub` is the client, or it says
    /// nothing of how a person authenticated.
    pub is_service: bool,
    /// All of it.
    pub claims: Object,
}

impl Profile {
    /// Checks claims whose signature is this issuer's.
    ///
    /// # Errors
    /// [`TokenFault`].
    pub fn check(&self, claims: Object, now: UnixMs) -> Result<AccessToken, TokenFault> {
        if claims.text("iss") != Some(&self.issuer) {
            return Err(TokenFault::Issuer);
        }
        if !self.is_for_us(&claims) {
            return Err(TokenFault::Audience);
        }
        let ends = self.check_times(&claims, now.0 / 1000)?;
        let (subject, client) = (name(&claims, "sub")?, name(&claims, "client_id")?);
        let acr = optional(&claims, "acr", Value::as_str)?.map(str::to_owned);
        let auth_time = optional(&claims, "auth_time", Value::as_u64)?;
        let amr = match claims.0.get("amr") {
            None => Vec::new(),
            Some(list) => list.as_array().ok_or(TokenFault::Malformed)?.clone(),
        };
        let shown = |value: &Value| self.mfa_amr.iter().any(|it| value.as_str() == Some(it));
        let mfa =
            acr.as_ref().is_some_and(|acr| self.mfa_acr.contains(acr)) || amr.iter().any(shown);
        let silent = acr.is_none() && auth_time.is_none() && amr.is_empty();
        Ok(AccessToken {
            is_service: subject == client || silent,
            subject,
            client,
            session: name(&claims, "jti")?,
            ends,
            acr,
            auth_time: auth_time.map(|secs| UnixMs(secs.saturating_mul(1000))),
            mfa,
            jkt: bound(&claims)?,
            claims,
        })
    }

    fn is_for_us(&self, claims: &Object) -> bool {
        match claims.0.get("aud") {
            Some(Value::String(one)) => *one == self.audience,
            Some(Value::Array(many)) => many.iter().any(|it| it.as_str() == Some(&self.audience)),
            _ => false,
        }
    }

    /// When the token ends.
    fn check_times(&self, claims: &Object, now: u64) -> Result<UnixMs, TokenFault> {
        let soon = now.saturating_add(self.clock_skew_secs);
        let required = |name| claims.number(name).ok_or(TokenFault::Malformed);
        let (exp, iat) = (required("exp")?, required("iat")?);
        if now >= exp.saturating_add(self.clock_skew_secs) {
            return Err(TokenFault::Expired);
        }
        let later = ["nbf", "auth_time"].map(|name| optional(claims, name, Value::as_u64));
        let [nbf, auth_time] = later;
        // A login in the future would stay fresh for as long as its author likes.
        if [Some(iat), nbf?, auth_time?].into_iter().flatten().any(|at| at > soon) {
            return Err(TokenFault::NotYet);
        }
        if exp.saturating_sub(iat) > self.lifetime_secs_max {
            return Err(TokenFault::Lifetime);
        }
        let ends = exp.saturating_add(self.clock_skew_secs);
        Ok(UnixMs(ends.saturating_mul(1000)))
    }
}

/// A claim that may be missing, but is of its type when it is there.
fn optional<'a, T>(
    claims: &'a Object,
    name: &str,
    read: fn(&'a Value) -> Option<T>,
) -> Result<Option<T>, TokenFault> {
    claims.0.get(name).map(|value| read(value).ok_or(TokenFault::Malformed)).transpose()
}

/// A claim that names somebody in records: short, and of visible characters.
fn name(claims: &Object, claim: &str) -> Result<String, TokenFault> {
    let text = claims.text(claim).ok_or(TokenFault::Malformed)?;
    if text.is_empty() || text.len() > NAME_BYTES_MAX || text.chars().any(char::is_control) {
        return Err(TokenFault::Malformed);
    }
    Ok(text.to_owned())
}

/// The key that the token is bound to. One that is bound by another means, such as a certificate,
/// is refused: nothing here would notice that it was stolen.
fn bound(claims: &Object) -> Result<Option<String>, TokenFault> {
    let Some(cnf) = claims.0.get("cnf") else { return Ok(None) };
    let cnf = cnf.as_object().ok_or(TokenFault::Malformed)?;
    match (cnf.get("jkt").and_then(Value::as_str), cnf.len()) {
        (Some(jkt), 1) => Ok(Some(jkt.to_owned())),
        _ => Err(TokenFault::OtherBinding),
    }
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;

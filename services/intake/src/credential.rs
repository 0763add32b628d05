//! What a request shows to say who it is: read strictly, and believed by nobody yet.
//!
//! Promises: a key's text is hashed where it is read, and kept nowhere; a token prints nothing.
//! Refuses: a credential in a query string, even beside a good header; two headers.

use crate::auth::Denied;
use hotcell_schemas::{Digest, KeyId, api_key::PREFIX};
use http::{HeaderMap, header::AUTHORIZATION};
use std::{fmt, hint::black_box};

/// Longest key, in bytes: prefix, id and up to 128 characters of secret.
const KEY_BYTES_MAX: usize = 192;

/// Shortest secret, in characters: 22 of base64url hold 128 bits.
const SECRET_CHARS_MIN: usize = 22;

/// How a token is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// RFC 6750.
    Bearer,
    /// RFC 9449: with a proof of the key that it is bound to.
    Dpop,
}

/// A well-formed key: its id, and the SHA-256 of all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyText {
    pub(crate) id: KeyId,
    pub(crate) sha256: Digest,
}

/// A credential of good form. Prints no token.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential<'a> {
    /// An API key.
    Key(KeyText),
    /// Anything else: a token, or it will not be believed.
    Token(Scheme, &'a str),
}

impl fmt::Debug for Credential<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => f.debug_tuple("Key").field(&key.id).finish(),
            Self::Token(scheme, _) => write!(f, "Token({scheme:?}, [redacted])"),
        }
    }
}

/// The credential of a request, from its headers and its query string.
///
/// # Errors
/// [`Denied`]: the query string holds one; there is not exactly one header; its scheme or its form.
pub fn credential<'a>(
    headers: &'a HeaderMap,
    query: Option<&str>,
) -> Result<Credential<'a>, Denied> {
    if query.is_some_and(holds_credential) {
        return Err(Denied::InQuery);
    }
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(Denied::Missing)?;
    if values.next().is_some() {
        return Err(Denied::Several);
    }
    let text = value.to_str().map_err(|_| Denied::Malformed)?;
    let (scheme, shown) = text.split_once(' ').unwrap_or((text, ""));
    // The scheme's case does not matter (RFC 9110 §11.1).
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "bearer" => Scheme::Bearer,
        "dpop" => Scheme::Dpop,
        _ => return Err(Denied::Scheme),
    };
    // A token has two dots, a key none.
    if shown.contains('.') {
        return Ok(Credential::Token(scheme, shown));
    }
    if scheme != Scheme::Bearer {
        return Err(Denied::Scheme);
    }
    parse_key(shown).map(Credential::Key).ok_or(Denied::Malformed)
}

pub(crate) fn parse_key(key: &str) -> Option<KeyText> {
    if key.len() > KEY_BYTES_MAX {
        return None;
    }
    let (id, secret) = key.strip_prefix(PREFIX)?.split_once('_')?;
    let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    if secret.len() < SECRET_CHARS_MIN || !secret.bytes().all(safe) {
        return None;
    }
    Some(KeyText { id: id.parse().ok()?, sha256: Digest::of(key.as_bytes()) })
}

fn holds_credential(query: &str) -> bool {
    url::form_urlencoded::parse(query.as_bytes()).any(|(name, value)| {
        let name = name.to_ascii_lowercase();
        matches!(name.as_str(), "api_key" | "apikey" | "access_token" | "authorization")
            || name.starts_with(PREFIX)
            || value.trim_start().to_ascii_lowercase().starts_with(PREFIX)
    })
}

/// Compares without telling by its time where two texts or digests differ.
pub(crate) fn same(a: &[u8], b: &[u8]) -> bool {
    let differs = a.iter().zip(b).fold(0_u8, |differs, (a, b)| differs | (a ^ b));
    a.len() == b.len() && black_box(differs) == 0
}

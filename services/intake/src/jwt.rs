//! Signed tokens of the compact form (RFC 7515, RFC 7519), and the keys that verify them (RFC 7517).
//!
//! Promises: [`Unverified`] gives its claims away only against a key, and only by an algorithm that
//! the caller lists and the key is for; a member that appears twice, a critical extension (`crit`)
//! and more than [`BYTES_MAX`] are refused. Refuses: `none`, every symmetric algorithm, keys with
//! private parts, and keys that a token names by itself (`jku`, `jwk`, `x5u`, `x5c`): whoever wants
//! one of those reads it from the header and decides (RFC 8725 §3.1, §3.10).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hotcell_schemas::Digest;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};
use std::{fmt, str::FromStr};

/// Longest token, in bytes: tokens of large directories carry some hundred groups.
pub const BYTES_MAX: usize = 8192;

/// Longest modulus of an RSA key, in bytes: 8192 bits, as ring takes them.
const MODULUS_BYTES_MAX: usize = 1024;

/// Members of a key that only its owner may hold (RFC 7518 §6).
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// An algorithm of signatures (RFC 7518 §3.1, RFC 8037 §3.1). No other is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
    /// RSASSA-PSS with SHA-256.
    #[serde(rename = "PS256")]
    Ps256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
}

impl Algorithm {
    /// Every algorithm, strongest preference first.
    pub const ALL: [Self; 4] = [Self::Es256, Self::EdDsa, Self::Ps256, Self::Rs256];

    /// The name in headers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
            Self::Ps256 => "PS256",
            Self::Rs256 => "RS256",
        }
    }
}

impl FromStr for Algorithm {
    type Err = JwtError;
    fn from_str(text: &str) -> Result<Self, JwtError> {
        Self::ALL.into_iter().find(|it| it.as_str() == text).ok_or(JwtError::Algorithm)
    }
}

/// Why a token, or a key, is not believed. Constant texts, which may be logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// Over [`BYTES_MAX`].
    #[error("a token over the size limit")]
    TooLong,
    /// Not three parts of base64url.
    #[error("a token that is not of the compact form")]
    NotCompact,
    /// A header or claims that are no JSON object, or name a member twice.
    #[error("a token whose JSON is malformed or names a member twice")]
    Json,
    /// `crit`: it asks for what we do not implement (RFC 7515 §4.1.11).
    #[error("a token with critical extensions")]
    Critical,
    /// `none`, a symmetric one, an unknown one, or one that is not listed.
    #[error("a token signed by an algorithm that is not listed")]
    Algorithm,
    /// The signature is another's.
    #[error("a token with a wrong signature")]
    Signature,
    /// A key of an unknown type, for another use, with private parts, or too large.
    #[error("a key that is not a public key for signatures")]
    Key,
}

/// A JSON object in which every member appears once, at every depth (RFC 7519 §4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object(pub Map<String, Value>);

impl Object {
    /// The object in `bytes`.
    ///
    /// # Errors
    /// `Json`.
    pub fn parse(bytes: &[u8]) -> Result<Self, JwtError> {
        match serde_json::from_slice::<Strict>(bytes) {
            Ok(Strict(Value::Object(members))) => Ok(Self(members)),
            _ => Err(JwtError::Json),
        }
    }

    /// A member that is a string.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// A member that is a whole number, not negative: a time in Unix seconds.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        self.0.get(name)?.as_u64()
    }
}

/// A value without repeated members.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(StrictVisitor)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Strict;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without repeated members")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Strict, E> {
        Ok(Strict(Value::Bool(value)))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Strict, E> {
        Ok(Strict(Number::from_f64(value).map_or(Value::Null, Value::Number)))
    }
    fn visit_str<E>(self, value: &str) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }
    fn visit_unit<E>(self) -> Result<Strict, E> {
        Ok(Strict(Value::Null))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Strict, A::Error> {
        let mut values = Vec::new();
        while let Some(Strict(value)) = from.next_element()? {
            values.push(value);
        }
        Ok(Strict(Value::Array(values)))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Strict, A::Error> {
        let mut members = Map::new();
        while let Some((name, Strict(value))) = from.next_entry::<String, Strict>()? {
            if members.insert(name, value).is_some() {
                return Err(A::Error::custom("a member appears twice"));
            }
        }
        Ok(Strict(Value::Object(members)))
    }
}

/// A token whose signature nobody has checked.
#[derive(Debug)]
pub struct Unverified<'a> {
    header: Object,
    claims: Object,
    algorithm: Algorithm,
    signed: &'a str,
    signature: Vec<u8>,
}

impl<'a> Unverified<'a> {
    /// The token in `text`.
    ///
    /// # Errors
    /// `TooLong`, `NotCompact`, `Json`, `Critical`, `Algorithm`.
    pub fn parse(text: &'a str) -> Result<Self, JwtError> {
        if text.len() > BYTES_MAX {
            return Err(JwtError::TooLong);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(JwtError::NotCompact)?;
        let (header, claims) = signed.split_once('.').ok_or(JwtError::NotCompact)?;
        let (header, claims) = (Object::parse(&decoded(header)?)?, &decoded(claims)?);
        if header.0.contains_key("crit") {
            return Err(JwtError::Critical);
        }
        let algorithm = header.text("alg").ok_or(JwtError::Algorithm)?.parse()?;
        let (claims, signature) = (Object::parse(claims)?, decoded(signature)?);
        Ok(Self { header, claims, algorithm, signed, signature })
    }

    /// The header, which anyone may have written.
    #[must_use]
    pub fn header(&self) -> &Object {
        &self.header
    }

    /// The algorithm that the header names.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// `iss`, which anyone may have written: to choose whose keys to verify with.
    #[must_use]
    pub fn issuer(&self) -> Option<&str> {
        self.claims.text("iss")
    }

    /// Whether the header's `typ` is `expected`, with or without `application/`, in any case
    /// (RFC 7515 §4.1.9).
    #[must_use]
    pub fn is_type(&self, expected: &str) -> bool {
        let Some(found) = self.header.text("typ") else { return false };
        let found = found.to_ascii_lowercase();
        found.strip_prefix("application/").unwrap_or(&found) == expected
    }

    /// The claims, signed by `key` with one of `allowed`.
    ///
    /// # Errors
    /// `Algorithm`, `Key`, `Signature`.
    pub fn verify(self, key: &PublicKey, allowed: &[Algorithm]) -> Result<Object, JwtError> {
        if !allowed.contains(&self.algorithm) {
            return Err(JwtError::Algorithm);
        }
        key.verify(self.algorithm, self.signed.as_bytes(), &self.signature)?;
        Ok(self.claims)
    }
}

fn decoded(part: &str) -> Result<Vec<u8>, JwtError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| JwtError::NotCompact)
}

/// `bytes` as tokens write them: base64url without padding.
#[must_use]
pub fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    material: Material,
    /// The one algorithm that the key is for, when it says so.
    only: Option<Algorithm>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Material {
    /// x and y.
    P256([u8; 32], [u8; 32]),
    Ed25519([u8; 32]),
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
}

impl PublicKey {
    /// The key of a JSON Web Key (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2).
    ///
    /// # Errors
    /// `Key`.
    pub fn from_jwk(jwk: &Map<String, Value>) -> Result<Self, JwtError> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let verifies = jwk.get("key_ops").is_none_or(|ops| {
            ops.as_array().is_some_and(|ops| ops.iter().any(|op| op.as_str() == Some("verify")))
        });
        let for_signatures = jwk.get("use").is_none_or(|it| it.as_str() == Some("sig"));
        if !verifies || !for_signatures || PRIVATE.iter().any(|name| jwk.contains_key(*name)) {
            return Err(JwtError::Key);
        }
        let bytes = |name: &str| text(name).and_then(|it| decoded(it).ok()).ok_or(JwtError::Key);
        let fixed = |name: &str| <[u8; 32]>::try_from(bytes(name)?).map_err(|_| JwtError::Key);
        let material = match (text("kty"), text("crv")) {
            (Some("EC"), Some("P-256")) => Material::P256(fixed("x")?, fixed("y")?),
            (Some("OKP"), Some("Ed25519")) => Material::Ed25519(fixed("x")?),
            (Some("RSA"), None) => {
                let (n, e) = (bytes("n")?, bytes("e")?);
                if n.len() > MODULUS_BYTES_MAX || e.len() > 4 {
                    return Err(JwtError::Key);
                }
                Material::Rsa { n, e }
            }
            _ => return Err(JwtError::Key),
        };
        let only = match jwk.get("alg") {
            None => None,
            Some(name) => {
                let name = name.as_str().ok_or(JwtError::Key)?;
                Some(name.parse().map_err(|_| JwtError::Key)?)
            }
        };
        let key = Self { material, only };
        if only.is_some_and(|only| !key.suits(only)) {
            return Err(JwtError::Key);
        }
        Ok(key)
    }

    /// A raw Ed25519 key.
    #[must_use]
    pub fn ed25519(bytes: [u8; 32]) -> Self {
        Self { material: Material::Ed25519(bytes), only: Some(Algorithm::EdDsa) }
    }

    /// Whether signatures of `algorithm` can be this key's.
    #[must_use]
    pub fn suits(&self, algorithm: Algorithm) -> bool {
        let fits = match (&self.material, algorithm) {
            (Material::P256(..), Algorithm::Es256)
            | (Material::Ed25519(_), Algorithm::EdDsa)
            | (Material::Rsa { .. }, Algorithm::Ps256 | Algorithm::Rs256) => true,
            (Material::P256(..) | Material::Ed25519(_) | Material::Rsa { .. }, _) => false,
        };
        fits && self.only.is_none_or(|only| only == algorithm)
    }

    /// Checks one signature.
    ///
    /// # Errors
    /// `Key` when the key is not for `algorithm`; `Signature`.
    pub fn verify(
        &self,
        algorithm: Algorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), JwtError> {
        if !self.suits(algorithm) {
            return Err(JwtError::Key);
        }
        let good = match &self.material {
            Material::P256(x, y) => {
                // An uncompressed point (SEC 1 §2.3.3); ring refuses one that is not on the curve.
                let point = [&[4][..], x, y].concat();
                let key = UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point);
                key.verify(message, signature)
            }
            Material::Ed25519(x) => {
                UnparsedPublicKey::new(&signature::ED25519, x).verify(message, signature)
            }
            Material::Rsa { n, e } => {
                let scheme = match algorithm {
                    Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
                    Algorithm::Rs256 | Algorithm::Es256 | Algorithm::EdDsa => {
                        &signature::RSA_PKCS1_2048_8192_SHA256
                    }
                };
                // Some issuers write the sign's zero byte (RFC 7518 §6.3.1.1 forbids it).
                let n = n.strip_prefix(&[0]).unwrap_or(n);
                RsaPublicKeyComponents { n, e: e.as_slice() }.verify(scheme, message, signature)
            }
        };
        good.map_err(|_| JwtError::Signature)
    }

    /// The thumbprint: SHA-256 of the required members in order (RFC 7638 §3), base64url.
    #[must_use]
    pub fn thumbprint(&self) -> String {
        let canonical = match &self.material {
            Material::P256(x, y) => {
                format!(r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#, encoded(x), encoded(y))
            }
            Material::Ed25519(x) => {
                format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, encoded(x))
            }
            Material::Rsa { n, e } => {
                format!(r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#, encoded(e), encoded(n))
            }
        };
        encoded(Digest::of(canonical.as_bytes()).as_bytes())
    }
}

#[cfg(test)]
#[path = "jwt_tests.rs"]
mod tests;

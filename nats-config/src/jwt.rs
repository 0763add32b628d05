//! NATS JWTs, version 2: signs claims and reads them back.
//!
//! Promises: what [`decode`] returns was signed by the key that it names as issuer. Refuses: other
//! algorithms, unknown fields, texts over the broker's payload. Whether the issuer is one to
//! believe is the caller's question: see [`crate::validate`].
//!
//! Source: github.com/nats-io/jwt v2: `base64url(header).base64url(claims).base64url(signature)`
//! without padding; Ed25519 over the first two parts.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use hotcell_schemas::{Digest, UnixMs, limits::PAYLOAD_BYTES_MAX};
use nkeys::KeyPair;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

const HEADER: &str = r#"{"typ":"JWT","alg":"ed25519-nkey"}"#;

/// The claims of one JWT.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims<T> {
    /// End of validity, Unix seconds; only users' end by themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exp: Option<u64>,
    /// Issue time, Unix seconds; of two account JWTs the broker keeps the later one.
    pub iat: u64,
    /// Public key of the signer.
    pub iss: String,
    /// An id; the broker does not read it.
    pub jti: String,
    /// A name for people, except in a user of a scoped key: there it is put into subjects.
    pub name: String,
    /// Public key of the subject.
    pub sub: String,
    /// What is claimed.
    pub nats: T,
}

#[derive(Deserialize)]
struct Header {
    typ: String,
    alg: String,
}

#[derive(Deserialize)]
struct Issuer {
    iss: String,
}

/// Why claims were not signed or a JWT was not read.
#[derive(Debug, thiserror::Error)]
pub enum JwtError {
    /// The claims do not encode as JSON.
    #[error("the claims do not encode as JSON")]
    Encode(#[source] serde_json::Error),
    /// The key has no private half.
    #[error("the key cannot sign")]
    Sign(#[source] nkeys::error::Error),
    /// Not three base64url parts, too long, or not an ed25519-nkey JWT.
    #[error("the text is not a NATS JWT")]
    Form,
    /// The claims are not of the expected type, or hold unknown fields.
    #[error("the claims are not of the expected type")]
    Claims(#[source] serde_json::Error),
    /// The signature is not the issuer's.
    #[error("the signature does not verify")]
    Signature,
}

/// A JWT about `subject`, signed by `signer`.
///
/// # Errors
/// `Encode`, `Sign`.
pub fn encode<T: Serialize>(
    signer: &KeyPair,
    now: UnixMs,
    subject: &str,
    name: &str,
    nats: &T,
) -> Result<String, JwtError> {
    encode_until(signer, now, None, subject, name, nats)
}

/// The same, valid until `end` (Unix seconds).
///
/// # Errors
/// `Encode`, `Sign`.
pub fn encode_until<T: Serialize>(
    signer: &KeyPair,
    now: UnixMs,
    end: Option<u64>,
    subject: &str,
    name: &str,
    nats: &T,
) -> Result<String, JwtError> {
    let mut claims = Claims {
        exp: end,
        iat: now.secs(),
        iss: signer.public_key(),
        jti: String::new(),
        name: name.to_owned(),
        sub: subject.to_owned(),
        nats,
    };
    let unnamed = serde_json::to_vec(&claims).map_err(JwtError::Encode)?;
    claims.jti = Digest::of(&unnamed).to_string();
    let body = serde_json::to_vec(&claims).map_err(JwtError::Encode)?;
    let signed = format!("{}.{}", BASE64URL.encode(HEADER), BASE64URL.encode(body));
    let sig = signer.sign(signed.as_bytes()).map_err(JwtError::Sign)?;
    Ok(format!("{signed}.{}", BASE64URL.encode(sig)))
}

/// The claims of `jwt`, after its signature was checked against the issuer that it names.
///
/// # Errors
/// `Form`, `Claims`, `Signature`.
pub fn decode<T: DeserializeOwned>(jwt: &str) -> Result<Claims<T>, JwtError> {
    if jwt.len() > PAYLOAD_BYTES_MAX {
        return Err(JwtError::Form);
    }
    let (signed, sig) = jwt.rsplit_once('.').ok_or(JwtError::Form)?;
    let (header, body) = signed.split_once('.').ok_or(JwtError::Form)?;
    let part = |text: &str| BASE64URL.decode(text).map_err(|_| JwtError::Form);
    let (header_json, body, sig) = (part(header)?, part(body)?, part(sig)?);
    let header: Header = serde_json::from_slice(&header_json).map_err(|_| JwtError::Form)?;
    if header.typ != "JWT" || header.alg != "ed25519-nkey" {
        return Err(JwtError::Form);
    }
    let issuer: Issuer = serde_json::from_slice(&body).map_err(JwtError::Claims)?;
    let key = KeyPair::from_public_key(&issuer.iss).map_err(|_| JwtError::Signature)?;
    key.verify(signed.as_bytes(), &sig).map_err(|_| JwtError::Signature)?;
    serde_json::from_slice(&body).map_err(JwtError::Claims)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMs = UnixMs(1_763_757_131_000);

    #[test]
    fn round_trip_and_any_changed_character_is_refused() {
        let signer = KeyPair::new_account();
        let jwt = encode(&signer, NOW, "UX", "name", &["a", "b"]).unwrap();
        let claims: Claims<Vec<String>> = decode(&jwt).unwrap();
        assert_eq!((claims.iss, claims.iat), (signer.public_key(), NOW.secs()));
        assert_eq!((claims.sub.as_str(), claims.nats.len()), ("UX", 2));
        for position in 0..jwt.len() {
            let mut bytes = jwt.clone().into_bytes();
            bytes[position] = if bytes[position] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(decode::<Vec<String>>(&changed).is_err(), "at {position}");
        }
    }

    #[test]
    fn unsigned_algorithms_and_other_shapes_are_refused() {
        let none = BASE64URL.encode(r#"{"typ":"JWT","alg":"none"}"#);
        let jwt = encode(&KeyPair::new_account(), NOW, "UX", "name", &1).unwrap();
        let (_, rest) = jwt.split_once('.').unwrap();
        for bad in ["", "a", "a.b", "a.b.c", &format!("{none}.{rest}"), &"x".repeat(300_000)] {
            assert!(matches!(decode::<u8>(bad), Err(JwtError::Form)));
        }
    }
}

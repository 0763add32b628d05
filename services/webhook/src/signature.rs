//! Standard Webhooks 1.0.0: secrets, signing, and the reference verifier that the command line
//! uses. Pure.
//!
//! Promises: the signature covers id, time of the attempt and the exact body bytes. Refuses, in the
//! verifier: a signature by another secret, a time further than 300 s from now, either way.
//!
//! Signed bytes: `<webhook-id>.<webhook-timestamp>.<body>`. `X-Hotcell-Signature` carries the same
//! HMAC in hex, so it proves neither more nor less.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hotcell_schemas::limits::WEBHOOK_TOLERANCE_SECS;
use ring::hmac;
use serde::Deserialize;
use std::fmt;

/// Names the delivery; stable over its attempts.
pub const HEADER_ID: &str = "webhook-id";
/// Unix seconds of this attempt.
pub const HEADER_TIMESTAMP: &str = "webhook-timestamp";
/// `v1,` and base64 of the HMAC; several, while an old secret signs as well, separated by spaces.
pub const HEADER_SIGNATURE: &str = "webhook-signature";
/// `hmac=` and hex of the same HMAC; several as in [`HEADER_SIGNATURE`].
pub const HEADER_HMAC: &str = "x-hotcell-signature";
/// The same as [`HEADER_TIMESTAMP`].
pub const HEADER_TIME: &str = "x-hotcell-timestamp";
/// The event; not signed, the body's `type` is.
pub const HEADER_EVENT: &str = "x-hotcell-event";
/// The delivery, again.
pub const HEADER_DELIVERY: &str = "x-hotcell-delivery";
/// Number of this attempt, from 1.
pub const HEADER_ATTEMPT: &str = "x-hotcell-attempt";

const SECRET_PREFIX: &str = "whsec_";
/// Shortest and longest key that Standard Webhooks allows, in bytes.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// Signatures in one header that are looked at: two keys in rotation, twice over.
const SIGNATURES_MAX: usize = 4;

/// An endpoint's key. Prints `[redacted]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

/// The text is not `whsec_` and base64 of 24 to 64 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a webhook secret must be `whsec_` and base64 of 24 to 64 bytes")]
pub struct SecretError;

impl Secret {
    /// A secret of 32 random bytes.
    #[must_use]
    pub fn new(random: [u8; 32]) -> Self {
        Self(random.to_vec())
    }

    /// Reads `whsec_<base64>`.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let text = text.strip_prefix(SECRET_PREFIX).ok_or(SecretError)?;
        Self::from_bytes(BASE64.decode(text).map_err(|_| SecretError)?)
    }

    /// A key of 24 to 64 bytes.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, SecretError> {
        if SECRET_BYTES.contains(&bytes.len()) { Ok(Self(bytes)) } else { Err(SecretError) }
    }

    /// `whsec_<base64>`: shown to the tenant, once.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{SECRET_PREFIX}{}", BASE64.encode(&self.0))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret([redacted])")
    }
}

/// What one attempt says, besides its body.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// The delivery's id.
    pub id: &'a str,
    /// The event.
    pub event: &'a str,
    /// Its number, from 1.
    pub number: u32,
    /// Unix seconds.
    pub timestamp: u64,
}

fn signed_bytes(id: &str, timestamp: &str, body: &[u8]) -> Vec<u8> {
    [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat()
}

/// The headers of an attempt: every one of them is sent, signed with each of `secrets`, the present
/// one first.
#[must_use]
pub fn headers(
    secrets: &[Secret],
    attempt: Attempt<'_>,
    body: &[u8],
) -> [(&'static str, String); 8] {
    let timestamp = attempt.timestamp.to_string();
    let signed = signed_bytes(attempt.id, &timestamp, body);
    let tags: Vec<_> = secrets.iter().map(|secret| hmac::sign(&secret.key(), &signed)).collect();
    let each =
        |write: fn(&hmac::Tag) -> String| tags.iter().map(write).collect::<Vec<_>>().join(" ");
    [
        (HEADER_ID, attempt.id.to_owned()),
        (HEADER_TIMESTAMP, timestamp.clone()),
        (HEADER_SIGNATURE, each(|tag| format!("v1,{}", BASE64.encode(tag)))),
        (HEADER_HMAC, each(|tag| format!("hmac={}", hex::encode(tag)))),
        (HEADER_TIME, timestamp),
        (HEADER_EVENT, attempt.event.to_owned()),
        (HEADER_DELIVERY, attempt.id.to_owned()),
        (HEADER_ATTEMPT, attempt.number.to_string()),
    ]
}

/// Why a receiver must not believe a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// A header is absent or malformed.
    #[error("header {0} is missing or malformed")]
    Header(&'static str),
    /// Signed more than 300 s ago: a replay, or a clock that is wrong.
    #[error("the delivery is older than 300 s")]
    TooOld,
    /// Signed more than 300 s from now.
    #[error("the delivery is from more than 300 s in the future")]
    TooNew,
    /// No signature fits secret, id, time and body.
    #[error("the signature does not verify")]
    BadSignature,
    /// The event header is not the signed body's type.
    #[error("the event header is not the body's type")]
    OtherEvent,
}

#[derive(Deserialize)]
struct Typed {
    #[serde(rename = "type")]
    kind: String,
}

/// Checks a delivery as a receiver must: `header` finds a header by its lowercase name, `body` is
/// the exact bytes received, `now` is the receiver's clock in Unix seconds.
///
/// # Errors
/// [`VerifyError`].
pub fn verify<'a>(
    secret: &Secret,
    header: impl Fn(&'static str) -> Option<&'a str>,
    body: &[u8],
    now: u64,
) -> Result<(), VerifyError> {
    let need = |name: &'static str| header(name).ok_or(VerifyError::Header(name));
    let (id, timestamp) = (need(HEADER_ID)?, need(HEADER_TIMESTAMP)?);
    if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
        return Err(VerifyError::Header(HEADER_ID));
    }
    let digits = timestamp.bytes().all(|b| b.is_ascii_digit());
    let at: u64 = timestamp.parse().map_err(|_| VerifyError::Header(HEADER_TIMESTAMP))?;
    if !digits {
        return Err(VerifyError::Header(HEADER_TIMESTAMP));
    }
    let signatures = need(HEADER_SIGNATURE)?.split(' ').take(SIGNATURES_MAX);
    let tags = signatures.filter_map(|one| BASE64.decode(one.strip_prefix("v1,")?).ok());
    let (key, signed) = (secret.key(), signed_bytes(id, timestamp, body));
    if !tags.into_iter().any(|tag| hmac::verify(&key, &signed, &tag).is_ok()) {
        return Err(VerifyError::BadSignature);
    }
    if now.saturating_sub(at) > WEBHOOK_TOLERANCE_SECS {
        return Err(VerifyError::TooOld);
    }
    if at.saturating_sub(now) > WEBHOOK_TOLERANCE_SECS {
        return Err(VerifyError::TooNew);
    }
    let Some(event) = header(HEADER_EVENT) else { return Ok(()) };
    let typed: Typed = serde_json::from_slice(body).map_err(|_| VerifyError::OtherEvent)?;
    if typed.kind == event { Ok(()) } else { Err(VerifyError::OtherEvent) }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The vector that the official libraries of Standard Webhooks carry.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const AT: u64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn secret() -> Secret {
        Secret::parse(SECRET).unwrap()
    }

    fn check(headers: &[(&str, &str)], body: &[u8], now: u64) -> Result<(), VerifyError> {
        let header = |name: &str| headers.iter().find(|(n, _)| *n == name).map(|(_, value)| *value);
        verify(&secret(), header, body, now)
    }

    fn vector() -> [(&'static str, &'static str); 3] {
        [(HEADER_ID, ID), (HEADER_TIMESTAMP, "1614265330"), (HEADER_SIGNATURE, SIGNATURE)]
    }

    #[test]
    fn brk_42_brk_44_headers_are_exact_and_signed() {
        let attempt = Attempt { id: ID, event: "job.completed", number: 2, timestamp: AT };
        let hex = "83484cf52b04f8e4cf2531adfed9882ad4b2665137b852442d594d20e2c9d4e1";
        let expect = [
            ("webhook-id", ID),
            ("webhook-timestamp", "1614265330"),
            ("webhook-signature", SIGNATURE),
            ("x-hotcell-signature", &format!("hmac={hex}")),
            ("x-hotcell-timestamp", "1614265330"),
            ("x-hotcell-event", "job.completed"),
            ("x-hotcell-delivery", ID),
            ("x-hotcell-attempt", "2"),
        ];
        let found = headers(&[secret()], attempt, BODY);
        assert_eq!(found.each_ref().map(|(name, value)| (*name, value.as_str())), expect);
    }

    #[test]
    fn the_official_vector_verifies_and_so_does_one_of_several() {
        assert_eq!(check(&vector(), BODY, AT), Ok(()));
        let [id, at, _] = vector();
        let other = SIGNATURE.replace('g', "h");
        let several = format!("v1a,AAAA {other} {SIGNATURE}");
        assert_eq!(check(&[id, at, (HEADER_SIGNATURE, &several)], BODY, AT), Ok(()));
        let many = format!("{}{SIGNATURE}", "v1,AAAA ".repeat(SIGNATURES_MAX));
        let refused = check(&[id, at, (HEADER_SIGNATURE, &many)], BODY, AT);
        assert_eq!(refused, Err(VerifyError::BadSignature));
    }

    #[test]
    fn brk_46_five_minutes_and_no_more_either_way() {
        for (now, expect) in [
            (AT + 299, Ok(())),
            (AT + 300, Ok(())),
            (AT + 301, Err(VerifyError::TooOld)),
            (AT - 299, Ok(())),
            (AT - 301, Err(VerifyError::TooNew)),
            (u64::MAX, Err(VerifyError::TooOld)),
        ] {
            assert_eq!(check(&vector(), BODY, now), expect, "{now}");
        }
    }

    #[test]
    fn brk_45_brk_47_no_bit_of_id_time_body_or_signature_can_change() {
        let [id, at, signature] = vector();
        for bit in 0..BODY.len() * 8 {
            let mut body = BODY.to_vec();
            body[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(check(&vector(), &body, AT), Err(VerifyError::BadSignature), "{bit}");
        }
        let flipped = |text: &str, bit: usize| {
            let mut bytes = text.as_bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            String::from_utf8(bytes).ok()
        };
        for (place, (_, text)) in vector().into_iter().enumerate() {
            for bit in 0..text.len() * 8 {
                let Some(text) = flipped(text, bit) else { continue };
                let mut changed = [id, at, signature];
                changed[place].1 = &text;
                assert!(check(&changed, BODY, AT).is_err(), "{place} {bit}");
            }
        }
        // A fresh time on an old signature: the replay that the time in the signature prevents.
        let fresh = [id, (HEADER_TIMESTAMP, "1614266000"), signature];
        assert_eq!(check(&fresh, BODY, 1_614_266_000), Err(VerifyError::BadSignature));
        assert_eq!(check(&[id, signature], BODY, AT), Err(VerifyError::Header(HEADER_TIMESTAMP)));
        assert_eq!(check(&[id, at], BODY, AT), Err(VerifyError::Header(HEADER_SIGNATURE)));
        let signed = [id, (HEADER_TIMESTAMP, "+1614265330"), signature];
        assert_eq!(check(&signed, BODY, AT), Err(VerifyError::Header(HEADER_TIMESTAMP)));
    }

    #[test]
    fn the_event_header_cannot_say_another_event() {
        let body = br#"{"type":"job.failed"}"#;
        let attempt = Attempt { id: ID, event: "job.failed", number: 1, timestamp: AT };
        let sent = headers(&[secret()], attempt, body);
        let mut seen: Vec<(&str, &str)> = sent.iter().map(|(n, v)| (*n, v.as_str())).collect();
        assert_eq!(check(&seen, body, AT), Ok(()));
        seen[5].1 = "job.completed";
        assert_eq!(check(&seen, body, AT), Err(VerifyError::OtherEvent));
    }

    #[test]
    fn the_crate_of_standard_webhooks_agrees() {
        let attempt = Attempt { id: ID, event: "job.failed", number: 1, timestamp: AT };
        let [.., (_, signature), _, _, _, _, _] = headers(&[secret()], attempt, BODY);
        let oracle = standardwebhooks::Webhook::new(SECRET).unwrap();
        assert_eq!(oracle.sign(ID, i64::try_from(AT).unwrap(), BODY).unwrap(), signature);
    }

    #[test]
    fn brk_43_while_two_secrets_sign_a_receiver_may_hold_either() {
        let (new, other) = (Secret::new([7; 32]), Secret::new([8; 32]));
        let attempt = Attempt { id: ID, event: "job.failed", number: 1, timestamp: AT };
        let sent = headers(&[new.clone(), secret()], attempt, br#"{"type":"job.failed"}"#);
        let header = |name: &str| sent.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str());
        let check = |secret: &Secret| verify(secret, header, br#"{"type":"job.failed"}"#, AT);
        assert_eq!((check(&new), check(&secret())), (Ok(()), Ok(())));
        assert_eq!(check(&other), Err(VerifyError::BadSignature));
        assert_eq!(header(HEADER_HMAC).unwrap().matches("hmac=").count(), 2);
    }

    #[test]
    fn secrets_have_one_form_and_are_not_printed() {
        let secret = Secret::new([7; 32]);
        assert_eq!(Secret::parse(&secret.reveal()), Ok(secret.clone()));
        assert_eq!(format!("{secret:?}"), "Secret([redacted])");
        for bad in ["", "whsec_", "whsec_AAAA", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_*"] {
            assert_eq!(Secret::parse(bad), Err(SecretError), "{bad}");
        }
    }
}

//! The lease: an opaque token that lets any signer replica serve any verb, so signers keep no
//! state. HMAC-SHA256 (RFC 2104) by the lease key over everything that the verbs need.
//!
//! Refuses: a token with any bit changed, of another worker, or past its expiry.

use crate::{JobId, PoolId, TenantId, UnixMs, WorkerId};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::fmt;

/// Longest token, in bytes: two slugs, two ids and an ack subject are under 400.
pub const TOKEN_BYTES_MAX: usize = 1024;

const DOMAIN: &[u8] = b"hotcell/lease/v1";

/// The signer's lease key, 32 bytes.
#[derive(Clone)]
pub struct LeaseKey([u8; 32]);

impl LeaseKey {
    /// A key from its bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    fn mac(&self, body: &[u8]) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        mac.update(DOMAIN);
        mac.update(body);
        mac
    }
}

impl fmt::Debug for LeaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// What a lease binds together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// Whose job.
    pub tenant: TenantId,
    /// The job.
    pub job: JobId,
    /// The pool.
    pub pool: PoolId,
    /// The attempt: the epoch.
    pub attempt: u32,
    /// The worker.
    pub worker: WorkerId,
    /// When it lapses.
    pub until: UnixMs,
    /// Stream sequence of the `assigned` event: what the next event must follow.
    pub assigned_seq: u64,
    /// The JetStream ack subject of the delivery, which only a signer may publish to.
    pub ack: String,
}

/// Why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// Not a token of ours.
    #[error("not a lease of this installation")]
    Forged,
    /// Given to another worker.
    #[error("the lease belongs to another worker")]
    OtherWorker,
    /// Past its expiry.
    #[error("the lease has lapsed")]
    Lapsed,
}

impl Lease {
    /// The token: base64url of MessagePack, a dot, base64url of its MAC.
    #[must_use]
    pub fn token(&self, key: &LeaseKey) -> String {
        let body = rmp_serde::to_vec_named(self).expect("a lease holds only strings and numbers");
        let mac = key.mac(&body).finalize().into_bytes();
        format!("{}.{}", BASE64.encode(&body), BASE64.encode(mac))
    }

    /// The lease of a token that `worker` presents at `now`. The MAC is compared in constant time.
    ///
    /// # Errors
    /// [`LeaseError`].
    pub fn check(
        token: &str,
        key: &LeaseKey,
        worker: &WorkerId,
        now: UnixMs,
    ) -> Result<Self, LeaseError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(LeaseError::Forged);
        }
        let (body, mac) = token.split_once('.').ok_or(LeaseError::Forged)?;
        let body = BASE64.decode(body).map_err(|_| LeaseError::Forged)?;
        let mac = BASE64.decode(mac).map_err(|_| LeaseError::Forged)?;
        key.mac(&body).verify_slice(&mac).map_err(|_| LeaseError::Forged)?;
        let lease: Self = rmp_serde::from_slice(&body).map_err(|_| LeaseError::Forged)?;
        if lease.worker != *worker {
            return Err(LeaseError::OtherWorker);
        }
        if now > lease.until {
            return Err(LeaseError::Lapsed);
        }
        Ok(lease)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease() -> Lease {
        Lease {
            tenant: "acme".parse().unwrap(),
            job: JobId::new(1, [2; 10]),
            pool: "cpu".parse().unwrap(),
            attempt: 1,
            worker: "w1".parse().unwrap(),
            until: UnixMs(1000),
            assigned_seq: 7,
            ack: "$JS.ACK.JOBS.work_cpu_acme.1.2.3.4.0".to_owned(),
        }
    }

    #[test]
    fn a_token_opens_for_its_worker_until_it_lapses() {
        let (key, worker) = (LeaseKey::new([7; 32]), "w1".parse().unwrap());
        let token = lease().token(&key);
        assert_eq!(Lease::check(&token, &key, &worker, UnixMs(1000)), Ok(lease()));
        assert_eq!(Lease::check(&token, &key, &worker, UnixMs(1001)), Err(LeaseError::Lapsed));
        let other = "w2".parse().unwrap();
        assert_eq!(Lease::check(&token, &key, &other, UnixMs(0)), Err(LeaseError::OtherWorker));
        let other_key = LeaseKey::new([8; 32]);
        assert_eq!(Lease::check(&token, &other_key, &worker, UnixMs(0)), Err(LeaseError::Forged));
    }

    #[test]
    fn any_changed_character_is_forged() {
        let (key, worker) = (LeaseKey::new([7; 32]), "w1".parse().unwrap());
        let token = lease().token(&key);
        for index in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            let result = Lease::check(&changed, &key, &worker, UnixMs(0));
            assert_eq!(result, Err(LeaseError::Forged), "character {index}");
        }
    }
}

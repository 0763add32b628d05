//! Which public key speaks for which role. Rendered by `nats-config` as `trust.json`.

use crate::Role;
use serde::{Deserialize, Serialize};

/// Two keys of a role may be valid while one is rotated; a third is a mistake.
pub const KEYS_PER_ROLE_MAX: usize = 2;

/// One trusted key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustedKey {
    /// The role it speaks for.
    pub role: Role,
    /// The public nkey (`U...`).
    pub key: String,
}

/// The roles' public keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, try_from = "TrustFile", into = "TrustFile")]
pub struct Trust {
    keys: Vec<TrustedKey>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TrustFile {
    v: u16,
    keys: Vec<TrustedKey>,
}

/// Why a trust list is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// Written by another version.
    #[error("trust.json has version {0}, this program reads version 1")]
    Version(u16),
    /// Not a public user nkey.
    #[error("trust.json names a key for {0} that is not a public user nkey (U...)")]
    NotAKey(Role),
    /// More keys than a rotation needs.
    #[error("trust.json names more than {KEYS_PER_ROLE_MAX} keys for {0}")]
    TooManyKeys(Role),
    /// One key in two places.
    #[error("trust.json names one key twice, the second time for {0}")]
    Twice(Role),
}

impl Trust {
    /// A list of keys, checked.
    ///
    /// # Errors
    /// [`TrustError`]: a malformed key, one key twice, or too many keys for one role.
    pub fn new(keys: Vec<TrustedKey>) -> Result<Self, TrustError> {
        for (index, entry) in keys.iter().enumerate() {
            let (before, _) = keys.split_at(index);
            if !entry.key.starts_with('U') || nkeys::KeyPair::from_public_key(&entry.key).is_err() {
                return Err(TrustError::NotAKey(entry.role));
            }
            if before.iter().any(|earlier| earlier.key == entry.key) {
                return Err(TrustError::Twice(entry.role));
            }
            if before.iter().filter(|earlier| earlier.role == entry.role).count()
                >= KEYS_PER_ROLE_MAX
            {
                return Err(TrustError::TooManyKeys(entry.role));
            }
        }
        Ok(Self { keys })
    }

    /// A list that trusts `key` for `role` and nothing else: what the signer uses for a worker
    /// whose key the broker stated.
    ///
    /// # Errors
    /// [`TrustError::NotAKey`].
    pub fn only(role: Role, key: &str) -> Result<Self, TrustError> {
        Self::new(vec![TrustedKey { role, key: key.to_owned() }])
    }

    /// The role that `key` speaks for.
    #[must_use]
    pub fn role_of(&self, key: &str) -> Option<Role> {
        self.keys.iter().find(|entry| entry.key == key).map(|entry| entry.role)
    }

    /// All entries.
    #[must_use]
    pub fn keys(&self) -> &[TrustedKey] {
        &self.keys
    }
}

impl TryFrom<TrustFile> for Trust {
    type Error = TrustError;
    fn try_from(file: TrustFile) -> Result<Self, TrustError> {
        if file.v != 1 {
            return Err(TrustError::Version(file.v));
        }
        Self::new(file.keys)
    }
}

impl From<Trust> for TrustFile {
    fn from(trust: Trust) -> Self {
        Self { v: 1, keys: trust.keys }
    }
}

//! Secrets at rest: ChaCha20-Poly1305 (RFC 8439) under a service's own key. Promises: what was
//! sealed opens only with the same key and for the same owner, so that a sealed secret cannot be
//! moved to another record. Refuses to say why a text does not open.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use std::fmt;

/// The sealing key. Prints `[redacted]`.
pub struct Vault(LessSafeKey);

/// The sealed text is damaged, another owner's, or sealed with another key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a sealed secret cannot be opened with the configured key")]
pub struct VaultError;

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault([redacted])")
    }
}

impl Vault {
    /// The vault of a key.
    ///
    /// # Panics
    /// Never: the key has the cipher's length.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        let key = UnboundKey::new(&CHACHA20_POLY1305, key).expect("the key has 32 bytes");
        Self(LessSafeKey::new(key))
    }

    /// Seals `secret` for `owner`, a text with one reading; `nonce` is random, and secrets are far
    /// too few for one to repeat (2^32 of them for a chance of 2^-32).
    ///
    /// # Panics
    /// Never: secrets are far below the cipher's 256 GiB.
    #[must_use]
    pub fn seal(&self, secret: &[u8], owner: &str, nonce: [u8; NONCE_LEN]) -> Vec<u8> {
        let mut text = secret.to_vec();
        let sealing = Nonce::assume_unique_for_key(nonce);
        self.0
            .seal_in_place_append_tag(sealing, Aad::from(owner.as_bytes()), &mut text)
            .expect("secrets are below the cipher's limit");
        [nonce.as_slice(), &text].concat()
    }

    /// Opens what [`Self::seal`] made for the same owner.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn open(&self, sealed: &[u8], owner: &str) -> Result<Vec<u8>, VaultError> {
        let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(VaultError)?;
        let (nonce, mut text) = (Nonce::assume_unique_for_key(*nonce), text.to_vec());
        let opened = self.0.open_in_place(nonce, Aad::from(owner.as_bytes()), &mut text);
        Ok(opened.map_err(|_| VaultError)?.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_key_and_owner_open_a_secret() {
        let vault = Vault::new(&[1; 32]);
        let sealed = vault.seal(b"CANARY", "a", [3; 12]);
        assert!(!sealed.windows(6).any(|part| part == b"CANARY"));
        assert_eq!(vault.open(&sealed, "a").as_deref(), Ok(b"CANARY".as_slice()));
        assert_eq!(vault.open(&sealed, "b"), Err(VaultError));
        assert_eq!(Vault::new(&[2; 32]).open(&sealed, "a"), Err(VaultError));
        for index in 0..sealed.len() {
            let mut bytes = sealed.clone();
            bytes[index] ^= 1;
            assert_eq!(vault.open(&bytes, "a"), Err(VaultError), "byte {index}");
        }
        assert_eq!(vault.open(b"", "a"), Err(VaultError));
        assert_eq!(format!("{vault:?}"), "Vault([redacted])");
    }
}

//! Endpoints' secrets at rest: ChaCha20-Poly1305 (RFC 8439) under the service's own key, bound to
//! tenant and endpoint, so a sealed secret cannot be moved to another endpoint.

use crate::signature::Secret;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hotcell_schemas::{EndpointId, TenantId};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use std::fmt;

/// The sealing key. Prints `[redacted]`.
pub struct Vault(LessSafeKey);

/// The sealed text is damaged, another endpoint's, or sealed with another key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an endpoint's secret cannot be opened with the configured key")]
pub struct VaultError;

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault([redacted])")
    }
}

fn owner(tenant: &TenantId, endpoint: &EndpointId) -> Aad<Vec<u8>> {
    // Neither holds a dot, so the text has one reading.
    Aad::from(format!("hotcell/endpoint-secret/v1.{tenant}.{endpoint}").into_bytes())
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

    /// Seals a secret; `nonce` is random, and endpoints are far too few for one to repeat.
    ///
    /// # Panics
    /// Never: the text is far below the cipher's limit.
    #[must_use]
    pub fn seal(
        &self,
        secret: &Secret,
        tenant: &TenantId,
        endpoint: &EndpointId,
        nonce: [u8; NONCE_LEN],
    ) -> String {
        let mut text = secret.as_bytes().to_vec();
        let sealing = Nonce::assume_unique_for_key(nonce);
        self.0
            .seal_in_place_append_tag(sealing, owner(tenant, endpoint), &mut text)
            .expect("64 bytes are below the cipher's limit");
        BASE64.encode([nonce.as_slice(), &text].concat())
    }

    /// Opens what [`Self::seal`] made for the same endpoint.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn open(
        &self,
        sealed: &str,
        tenant: &TenantId,
        endpoint: &EndpointId,
    ) -> Result<Secret, VaultError> {
        let bytes = BASE64.decode(sealed).map_err(|_| VaultError)?;
        let (nonce, text) = bytes.split_first_chunk::<NONCE_LEN>().ok_or(VaultError)?;
        let (nonce, mut text) = (Nonce::assume_unique_for_key(*nonce), text.to_vec());
        let opened = self.0.open_in_place(nonce, owner(tenant, endpoint), &mut text);
        Secret::from_bytes(opened.map_err(|_| VaultError)?.to_vec()).map_err(|_| VaultError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_key_and_endpoint_open_a_secret() {
        let (vault, secret) = (Vault::new(&[1; 32]), Secret::new([9; 32]));
        let (acme, umbra): (TenantId, TenantId) =
            ("acme".parse().unwrap(), "umbra".parse().unwrap());
        let (one, two) = (EndpointId::new(1, [1; 10]), EndpointId::new(1, [2; 10]));
        let sealed = vault.seal(&secret, &acme, &one, [3; 12]);
        assert!(!sealed.contains(&BASE64.encode([9; 30])));
        assert_eq!(vault.open(&sealed, &acme, &one), Ok(secret));
        assert_eq!(vault.open(&sealed, &umbra, &one), Err(VaultError));
        assert_eq!(vault.open(&sealed, &acme, &two), Err(VaultError));
        assert_eq!(Vault::new(&[2; 32]).open(&sealed, &acme, &one), Err(VaultError));
        let mut bytes = BASE64.decode(&sealed).unwrap();
        bytes[20] ^= 1;
        assert_eq!(vault.open(&BASE64.encode(bytes), &acme, &one), Err(VaultError));
        assert_eq!(vault.open("", &acme, &one), Err(VaultError));
        assert!(!format!("{vault:?}").contains('1'));
    }
}

//! Endpoints' secrets at rest: ChaCha20-Poly1305 (RFC 8439) under the service's own key, bound to
//! tenant and endpoint, so a sealed secret cannot be moved to another endpoint.

use crate::signature::Secret;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hotcell_schemas::{EndpointId, TenantId};
use hotcell_stage::vault;

/// The sealing key. Prints `[redacted]`.
#[derive(Debug)]
pub struct Vault(vault::Vault);

/// The sealed text is damaged, another endpoint's, or sealed with another key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an endpoint's secret cannot be opened with the configured key")]
pub struct VaultError;

fn owner(tenant: &TenantId, endpoint: &EndpointId) -> String {
    // Neither holds a dot, so the text has one reading.
    format!("hotcell/endpoint-secret/v1.{tenant}.{endpoint}")
}

impl Vault {
    /// The vault of a key.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        Self(vault::Vault::new(key))
    }

    /// Seals a secret; `nonce` is random.
    #[must_use]
    pub fn seal(
        &self,
        secret: &Secret,
        tenant: &TenantId,
        endpoint: &EndpointId,
        nonce: [u8; 12],
    ) -> String {
        BASE64.encode(self.0.seal(secret.as_bytes(), &owner(tenant, endpoint), nonce))
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
        let opened = self.0.open(&bytes, &owner(tenant, endpoint)).map_err(|_| VaultError)?;
        Secret::from_bytes(opened).map_err(|_| VaultError)
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

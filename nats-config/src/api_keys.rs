//! API keys that the operator makes: a tenant's first one, and what `hotcell up` completes.
//!
//! Promises: a key's text is returned once and stored nowhere; each act is recorded before it is
//! done; an id is in its tenant's list before its record is there. Refuses a key of no tenant.

use crate::admin::{Admin, AdminError, Entry, random};
use hotcell_schemas::{
    Digest, KeyId, TenantId, UnixMs,
    identity::RoleName,
    records::{KeyIndex, KeyRecord, TotpRecord},
};
use std::{collections::BTreeSet, fmt};

/// Characters of an API key's secret: 43 of 62 are 256 bits.
const SECRET_CHARS: usize = 43;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// An API key: shown once, stored nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its public half.
    pub id: KeyId,
    text: String,
}

impl ApiKey {
    /// `hck_<id>_<secret>`.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({}, [redacted])", self.id)
    }
}

/// The public half of a key's text; `None` when it is none.
#[must_use]
pub fn key_id_of(text: &str) -> Option<KeyId> {
    text.strip_prefix("hck_")?.split_once('_')?.0.parse().ok()
}

impl Admin {
    /// Makes an API key of `tenant` with these roles. Its text is returned once and stored nowhere.
    ///
    /// # Errors
    /// `UnknownTenant`, `Removed`; else as the broker says.
    pub async fn add_key(
        &self,
        tenant: &TenantId,
        roles: &[RoleName],
        now: UnixMs,
    ) -> Result<ApiKey, AdminError> {
        self.is_not_removed(&self.tenant(tenant).await?)?;
        let id = KeyId::new(now.0, random()?);
        let text = format!("hck_{id}_{}", secret()?);
        let record = KeyRecord {
            id: id.clone(),
            tenant: tenant.clone(),
            sha256: Digest::of(text.as_bytes()),
            created_at: now,
            revoked_at: None,
            roles: roles.iter().copied().collect(),
            expires_at: None,
            networks: Vec::new(),
            label: None,
            created_by: None,
            rotated_from: None,
            totp: None,
        };
        self.record(Some(tenant), "key_created", id.as_str(), now).await?;
        self.list_key(tenant, &id).await?;
        self.put("keys", id.as_str(), 0, &record).await?;
        Ok(ApiKey { id, text })
    }

    /// Gives a key what it lacks: roles, where it was made before there were any, and a second
    /// factor. What it has stays. Returns whether anything was changed; a key that is not there is
    /// left alone.
    ///
    /// # Errors
    /// As the broker says; a record that changes at the same moment is one of its refusals.
    pub async fn complete_key(
        &self,
        id: &KeyId,
        roles: &[RoleName],
        totp: impl FnOnce(&KeyRecord) -> TotpRecord,
        now: UnixMs,
    ) -> Result<bool, AdminError> {
        let entry: Entry<KeyRecord> = self.get("keys", id.as_str()).await?;
        let Some(mut record) = entry.value else { return Ok(false) };
        self.list_key(&record.tenant, id).await?;
        if record.totp.is_some() && !record.roles.is_empty() {
            return Ok(false);
        }
        if record.roles.is_empty() {
            record.roles = roles.iter().copied().collect::<BTreeSet<_>>();
        }
        if record.totp.is_none() {
            record.totp = Some(totp(&record));
        }
        self.record(Some(&record.tenant), "key_completed", id.as_str(), now).await?;
        self.put("keys", id.as_str(), entry.sequence, &record).await?;
        Ok(true)
    }

    /// Puts a key into its tenant's list, where it is not there yet.
    async fn list_key(&self, tenant: &TenantId, id: &KeyId) -> Result<(), AdminError> {
        let key = format!("index.{tenant}");
        let entry: Entry<KeyIndex> = self.get("keys", &key).await?;
        let mut index = entry.value.unwrap_or_default();
        if index.ids.insert(id.clone()) {
            self.put("keys", &key, entry.sequence, &index).await?;
        }
        Ok(())
    }
}

/// 43 characters of base 62, each equally likely.
fn secret() -> Result<String, AdminError> {
    let mut text = String::with_capacity(SECRET_CHARS);
    while text.len() < SECRET_CHARS {
        // 248 is the largest multiple of 62 in a byte; above it the first letters would gain.
        let even = random::<64>()?.into_iter().filter(|byte| *byte < 248);
        let chars = even.filter_map(|byte| BASE62.get(usize::from(byte % 62)).copied());
        text.extend(chars.map(char::from).take(SECRET_CHARS - text.len()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_base62_and_differ() {
        let (one, two) = (secret().unwrap(), secret().unwrap());
        assert_ne!(one, two);
        for text in [one, two] {
            assert_eq!(text.len(), SECRET_CHARS);
            assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        }
    }

    #[test]
    fn a_key_never_shows_in_debug_output() {
        let id = KeyId::new(0, [0; 10]);
        let text = format!("hck_{id}_SECRET");
        assert_eq!(key_id_of(&text).as_ref(), Some(&id));
        assert_eq!(key_id_of("hck_x_y"), None);
        let key = ApiKey { id, text };
        assert!(!format!("{key:?}").contains("SECRET"));
    }
}

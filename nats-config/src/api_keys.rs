//! API keys that the operator makes: a tenant's first one, and what `hotcell up` completes.
//!
//! Promises: a key's text is returned once and stored nowhere; each act is recorded before it is
//! done; an id is in its tenant's list before its record is there. Refuses a key of no tenant.

use crate::admin::{Admin, AdminError, Entry, random};
use hotcell_schemas::{
    KeyId, TenantId, UnixMs, api_key,
    identity::RoleName,
    records::{KeyIndex, KeyRecord, TotpRecord},
};
use std::{collections::BTreeSet, fmt};

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
        let text = api_key::text(&id, random)?;
        let record = KeyRecord {
            roles: roles.iter().copied().collect(),
            ..KeyRecord::new(id.clone(), tenant.clone(), &text, now)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_never_shows_in_debug_output() {
        let id = KeyId::new(0, [0; 10]);
        let text = format!("hck_{id}_SECRET");
        let key = ApiKey { id, text };
        assert!(!format!("{key:?}").contains("SECRET"));
    }
}

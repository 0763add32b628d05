//! Gives a tenant's account, or the workers', another scoped key, where the one before is in strange
//! hands: whoever has it makes logins of any name, so that revoking one keeps nobody out.
//!
//! Promises: when a call returns, whatever the key of before signed is cut and refused, and the
//! account's logins of this folder are signed anew, each under its own key and until its own end; a
//! call that was interrupted is completed by the same call. Refuses: what the key of before signs, for
//! ever: a copy of the folder that still has it is told so.

use crate::{
    admin::{Admin, AdminError},
    creds,
    init::{InitError, Installation, tenant_account_name},
    keys::{KeyStore, Missing},
    login::Login,
    logins::FoundLogin,
};
use hotcell_schemas::{TenantId, UnixMs};
use nkeys::KeyPairType;
use std::path::PathBuf;

/// File name of the workers' scoped key.
const WORKERS: &str = "encoders.workers";

/// A scoped key that took the place of another.
#[derive(Debug, Clone)]
pub struct Rekeyed {
    /// Its public half.
    pub key: String,
    /// Its file: what an agent of such a login needs.
    pub file: PathBuf,
    /// The logins that it signed: hand each file out again.
    pub logins: Vec<FoundLogin>,
}

impl Admin {
    /// Gives the programs of `tenant` another scoped key.
    ///
    /// # Errors
    /// `UnknownTenant`, `Removed`; else as the broker says.
    pub async fn rekey_tenant(
        &self,
        tenant: &TenantId,
        now: UnixMs,
    ) -> Result<Rekeyed, AdminError> {
        let record = self.tenant(tenant).await?;
        self.is_not_removed(&record)?;
        let name = format!("{}.programs", tenant_account_name(tenant));
        let is_its = |login: &Login| match login {
            Login::Tenant { tenant: owner, .. } => owner == tenant,
            Login::Service(_) | Login::Worker { .. } | Login::Sys => false,
        };
        self.record(Some(tenant), "scoped_key_replaced", &name, now).await?;
        let made = self.installation().replace_scope(&name, &record.account, is_its, now);
        let made = made.map_err(AdminError::Installation)?;
        self.follow_record(tenant, now).await?;
        Ok(made)
    }

    /// Gives the workers another scoped key.
    ///
    /// # Errors
    /// As the broker says.
    pub async fn rekey_workers(&self, now: UnixMs) -> Result<Rekeyed, AdminError> {
        let account = self.installation().keys().encoders.public_key();
        let is_worker = |login: &Login| matches!(login, Login::Worker { .. });
        self.record(None, "scoped_key_replaced", WORKERS, now).await?;
        let made = self.installation().replace_scope(WORKERS, &account, is_worker, now);
        let made = made.map_err(AdminError::Installation)?;
        // Ours still holds the key of before.
        let fresh = Installation::open(self.installation().dir());
        self.follow_workers(&fresh.map_err(AdminError::Installation)?, now).await?;
        Ok(made)
    }
}

impl Installation {
    /// Replaces the scoped key in the file of `name`, and signs the logins of `account` by it.
    fn replace_scope(
        &self,
        name: &str,
        account: &str,
        is_its: impl Fn(&Login) -> bool,
        now: UnixMs,
    ) -> Result<Rekeyed, InitError> {
        let store = KeyStore::new(&self.dir().join("keys"));
        // What does not read is said before anything is changed.
        let found = self.logins()?;
        let before =
            store.key(name, KeyPairType::Account, Missing::Refuse).map_err(InitError::Key)?;
        let (file, scope) = store.replace(name, KeyPairType::Account).map_err(InitError::Key)?;
        self.retire(&before.public_key(), account, name, now)?;
        let mut logins = Vec::new();
        for mut found in found.into_iter().filter(|found| found.login.as_ref().is_some_and(&is_its))
        {
            if self.is_revoked(&found.claims.sub)? {
                continue;
            }
            let signed = creds::sign_by(&found.path, &scope, now).map_err(InitError::Creds)?;
            found.claims = signed.claims;
            logins.push(found);
        }
        Ok(Rekeyed { key: scope.public_key(), file, logins })
    }
}

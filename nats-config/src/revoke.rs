//! Revokes one login on a running server: a tenant's program, or a worker.
//!
//! Promises: when a call returns the broker has cut the login's connections and takes no new one, it
//! was asked, and the login's file is gone; other logins of the account keep theirs; a call that was
//! interrupted is completed by the same call. Refuses: to revoke a service's login, whose key is
//! in the trust list of every service.

use crate::{
    admin::{Admin, AdminError, connect_with},
    creds::Creds,
    init::{InitError, Installation},
    login::{Login, LoginName},
    revocations::RevokedLogin,
};
use hotcell_schemas::{TenantId, UnixMs, WorkerId};
use std::collections::BTreeSet;

/// Name of the workers' account.
const ENCODERS: &str = "ENCODERS";

impl Admin {
    /// Revokes the login `user` of `tenant`. The name may be given again: it gets another key.
    ///
    /// # Errors
    /// `UnknownTenant`, `Removed`, `UnknownLogin`; `StillTaken`; else as the broker says.
    pub async fn revoke_program(
        &self,
        tenant: &TenantId,
        user: &LoginName,
        now: UnixMs,
    ) -> Result<RevokedLogin, AdminError> {
        let record = self.tenant(tenant).await?;
        self.is_not_removed(&record)?;
        let login = Login::Tenant { tenant: tenant.clone(), user: user.clone() };
        let (revoked, creds) = self.write_down(&login, &record.account, Some(tenant), now).await?;
        self.follow_record(tenant, now).await?;
        self.complete(&login, creds).await?;
        Ok(revoked)
    }

    /// Revokes the login of worker `name`. What it runs is given to another when its lease ends.
    ///
    /// # Errors
    /// `UnknownLogin`; `StillTaken`; else as the broker says.
    pub async fn revoke_worker(
        &self,
        name: &WorkerId,
        now: UnixMs,
    ) -> Result<RevokedLogin, AdminError> {
        let login = Login::Worker { name: name.clone(), pools: Vec::new() };
        let account = self.installation().keys().encoders.public_key();
        let (revoked, creds) = self.write_down(&login, &account, None, now).await?;
        self.follow_workers(self.installation(), now).await?;
        self.complete(&login, creds).await?;
        Ok(revoked)
    }

    /// The keys that the broker refuses in `account`.
    ///
    /// # Errors
    /// As the broker says.
    pub async fn refused_keys(&self, account: &str) -> Result<BTreeSet<String>, AdminError> {
        let stored = self.stored_claims(account).await?;
        Ok(stored.map(|claims| claims.nats.revocations.into_keys().collect()).unwrap_or_default())
    }

    /// Makes the broker's account of the workers what `installation` says.
    pub(crate) async fn follow_workers(
        &self,
        installation: &Installation,
        now: UnixMs,
    ) -> Result<(), AdminError> {
        let platform = installation.render_platform(now).map_err(AdminError::Installation)?;
        for account in platform.iter().filter(|account| account.name == ENCODERS) {
            self.ensure_account(account).await?;
        }
        Ok(())
    }

    /// The evidence first, then the folder, from which every later rendering takes it.
    async fn write_down(
        &self,
        login: &Login,
        account: &str,
        tenant: Option<&TenantId>,
        now: UnixMs,
    ) -> Result<(RevokedLogin, Option<Creds>), AdminError> {
        let found = self.installation().to_revoke(login, account, now);
        let found = found.map_err(AdminError::Installation)?;
        let (revoked, creds) = found.ok_or_else(|| AdminError::UnknownLogin(login.name()))?;
        let target = format!("{} {}", login.name(), revoked.key);
        self.record(tenant, "login_revoked", &target, now).await?;
        self.installation().write_revoked(&revoked, now).map_err(AdminError::Installation)?;
        Ok((revoked, creds))
    }

    /// Tries the login as its holder would, who must be refused, and removes its file.
    async fn complete(&self, login: &Login, creds: Option<Creds>) -> Result<(), AdminError> {
        let Some(creds) = creds else { return Ok(()) };
        if connect_with(self.url(), &creds, self.tls()).await.is_ok() {
            return Err(AdminError::StillTaken(login.name()));
        }
        let path = self.installation().creds_path(login);
        let removed: Result<(), InitError> = self.installation().remove_file(path);
        removed.map_err(AdminError::Installation)
    }
}

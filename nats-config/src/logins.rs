//! The logins that an installation holds: listed, renewed, forgotten. Promises: whose a login is
//! follows from the account in its signed token, never from the name of its file; a login that
//! cannot be renewed keeps no other from it.

use crate::{
    claims::UserBody,
    creds::{self, Creds},
    init::{InitError, Installation, tenant_account_name},
    jwt::Claims,
    keys::Missing,
    login::{Login, LoginName},
    terms::{Life, Terms},
};
use hotcell_schemas::{PoolId, Role, TenantId, UnixMs};
use nkeys::KeyPair;
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

/// What a worker's tag begins with that names a pool.
const POOL_TAG: &str = "pool:";

/// One login of the installation.
#[derive(Debug, Clone)]
pub struct FoundLogin {
    /// Whose; `None` when its account is none of this installation's, as of a removed tenant.
    pub login: Option<Login>,
    /// Its credential file.
    pub path: PathBuf,
    /// What was signed.
    pub claims: Claims<UserBody>,
}

/// What a look at all logins did.
#[derive(Debug)]
pub struct Renewals {
    /// Signed just now.
    pub renewed: Vec<FoundLogin>,
    /// Why others were not, or could not be read.
    pub failed: Vec<InitError>,
}

impl Renewals {
    /// The renewed ones, if none failed.
    ///
    /// # Errors
    /// The first failure.
    pub fn all(mut self) -> Result<Vec<FoundLogin>, InitError> {
        if self.failed.is_empty() { Ok(self.renewed) } else { Err(self.failed.swap_remove(0)) }
    }
}

impl Installation {
    /// Makes a tenant's credential file with these terms, or puts them into the one that is there.
    /// Offline; the tenant's keys must exist.
    ///
    /// # Errors
    /// `Key`, `Creds`.
    pub fn issue_program(
        &self,
        tenant: &TenantId,
        user: &LoginName,
        terms: &Terms,
        now: UnixMs,
    ) -> Result<PathBuf, InitError> {
        let login = Login::Tenant { tenant: tenant.clone(), user: user.clone() };
        self.issue_with(&login, Some(terms), now)
    }

    /// Signs `login` again for `life`, under the key that it has. Offline.
    ///
    /// # Errors
    /// `Key`, `Creds`.
    pub fn renew(&self, login: &Login, life: Life, now: UnixMs) -> Result<Creds, InitError> {
        let path = self.creds_path(login);
        self.with_scope(login, |scope, _| creds::renew(&path, scope, life, now))
    }

    /// Every login that has a credential file here, in the order of their names.
    ///
    /// # Errors
    /// `File`, `Creds`, `Key`.
    pub fn logins(&self) -> Result<Vec<FoundLogin>, InitError> {
        let (found, mut failed) = self.readable_logins()?;
        if failed.is_empty() { Ok(found) } else { Err(failed.swap_remove(0)) }
    }

    /// Those that can be read, and why others cannot.
    fn readable_logins(&self) -> Result<(Vec<FoundLogin>, Vec<InitError>), InitError> {
        let (tenants, mut failed) = self.tenants_with_keys()?;
        let mut found = Vec::new();
        for path in listed(&self.dir().join("creds"))? {
            if path.extension().is_none_or(|extension| extension != "creds") {
                continue;
            }
            match creds::read(&path) {
                Ok(Creds { claims, .. }) => {
                    found.push(FoundLogin {
                        login: self.login_of(&claims, &tenants),
                        path,
                        claims,
                    });
                }
                Err(error) => failed.push(InitError::Creds(error)),
            }
        }
        Ok((found, failed))
    }

    /// Renews those of the logins that are wanted and due for `life`, or for the shorter life that was
    /// asked for a tenant's. One that fails stops no other:
    /// a stray file must not end every service within a day.
    ///
    /// # Errors
    /// `File`, when a folder does not read.
    pub fn renew_due(
        &self,
        life: Life,
        now: UnixMs,
        wanted: impl Fn(&Login) -> bool,
    ) -> Result<Renewals, InitError> {
        let (logins, failed) = self.readable_logins()?;
        let mut renewals = Renewals { renewed: Vec::new(), failed };
        for mut found in logins {
            let Some(login) = found.login.as_ref().filter(|login| wanted(login)) else { continue };
            // A shorter life that was asked for a tenant's program stays.
            let life = match login {
                Login::Tenant { .. } => {
                    Life::of_claims(&found.claims).map_or(life, |l| l.min(life))
                }
                Login::Service(_) | Login::Worker { .. } | Login::Sys => life,
            };
            if !creds::is_due(&found.claims, life, now) || self.is_revoked(&found.claims.sub)? {
                continue;
            }
            match self.renew(login, life, now) {
                Ok(Creds { claims, .. }) => {
                    found.claims = claims;
                    renewals.renewed.push(found);
                }
                Err(error) => renewals.failed.push(error),
            }
        }
        Ok(renewals)
    }

    /// Renews the operator's own two logins, if they end and are due: whoever calls this holds the
    /// keys that signed them.
    ///
    /// # Errors
    /// `Creds`.
    pub fn renew_operator(&self, now: UnixMs) -> Result<(), InitError> {
        for login in [Login::Sys, Login::Service(Role::Provisioner)] {
            let claims = self.creds(&login)?.claims;
            if claims.exp.is_some() && creds::is_due(&claims, Life::DAY, now) {
                self.renew(&login, Life::DAY, now)?;
            }
        }
        Ok(())
    }

    /// Removes everything with which a login of `tenant` could be made or used: its account's keys,
    /// its account, its credential files. The broker is told by [`crate::Admin::remove_tenant`].
    ///
    /// # Errors
    /// `File`, `Creds`, `Key`.
    pub fn forget_tenant(&self, tenant: &TenantId) -> Result<(), InitError> {
        let name = tenant_account_name(tenant);
        let keys = self.dir().join("keys");
        let logins = self.logins()?.into_iter().filter_map(|found| match found.login {
            Some(Login::Tenant { tenant: owner, .. }) if owner == *tenant => Some(found.path),
            Some(_) | None => None,
        });
        // The account's key last: without it nobody could say whose the other files are.
        let rest = [
            keys.join(format!("{name}.programs.nk")),
            self.account_path(&name),
            keys.join(format!("{name}.nk")),
        ];
        if let Ok(own) = self.tenant_keys(tenant, Missing::Refuse) {
            self.forget_revoked(&own.account.public_key())?;
        }
        logins.chain(rest).try_for_each(|path| self.remove_file(path))
    }

    /// The tenants whose keys are here, by their account's public key, and why others do not read.
    fn tenants_with_keys(&self) -> Result<(BTreeMap<String, TenantId>, Vec<InitError>), InitError> {
        let (mut tenants, mut failed) = (BTreeMap::new(), Vec::new());
        for path in listed(&self.dir().join("keys"))? {
            let stem = path.file_name().and_then(|name| name.to_str());
            let slug = stem.and_then(|name| name.strip_prefix("tenant-")?.strip_suffix(".nk"));
            let Some(tenant) = slug.and_then(|slug| slug.parse::<TenantId>().ok()) else {
                continue;
            };
            match self.tenant_keys(&tenant, Missing::Refuse) {
                Ok(keys) => _ = tenants.insert(keys.account.public_key(), tenant),
                Err(error) => failed.push(error),
            }
        }
        Ok((tenants, failed))
    }

    fn login_of(
        &self,
        claims: &Claims<UserBody>,
        tenants: &BTreeMap<String, TenantId>,
    ) -> Option<Login> {
        let (keys, account) = (self.keys(), &claims.nats.issuer_account);
        let is = |key: &KeyPair| key.public_key() == *account;
        if is(&keys.pipeline) {
            let role = Role::PIPELINE.into_iter().find(|role| role.as_str() == claims.name);
            return role.map(Login::Service);
        }
        if is(&keys.encoders) {
            let pool = |tag: &String| tag.strip_prefix(POOL_TAG)?.parse::<PoolId>().ok();
            let pools = claims.nats.tags.iter().filter_map(pool).collect();
            return Some(Login::Worker { name: claims.name.parse().ok()?, pools });
        }
        if is(&keys.sys) {
            return Some(Login::Sys);
        }
        let tenant = tenants.get(account)?.clone();
        Some(Login::Tenant { tenant, user: claims.name.parse().ok()? })
    }
}

/// The files of a folder, by name.
fn listed(dir: &Path) -> Result<Vec<PathBuf>, InitError> {
    let failed = |source| InitError::File { path: dir.to_path_buf(), source };
    let entries = fs::read_dir(dir).map_err(failed)?;
    let paths: io::Result<Vec<_>> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut paths = paths.map_err(failed)?;
    paths.sort();
    Ok(paths)
}

//! An installation: the folder of keys, credential files, account JWTs and the trust list.
//!
//! Promises: every file is the owner's only; a second `init` keeps every key and login and renders
//! again only what the code now says differently. Refuses: to open a folder that lacks a key.
//!
//! ```text
//! DIR/keys/*.nk        seeds of the operator, accounts and scopes; no service reads them
//! DIR/creds/*.creds    one file for each login; hand a service its own file and nothing else
//! DIR/accounts/*.jwt   the operator's and the accounts' JWTs, as last rendered
//! DIR/resolver/        the server's own folder of account JWTs
//! DIR/revoked/*.json   one file for each login that is revoked
//! DIR/trust.json       which public key signs for which role
//! ```

use crate::{
    accounts,
    claims::{AccountBody, ActivationBody},
    creds::{self, Creds, CredsError, Issue},
    files,
    jwt::{self, Claims, JwtError},
    keys::{KeyError, KeyStore, Keyring, Missing, TenantKeys},
    login::{Login, LoginName},
    server_config::{self, BrokerTls, PathError, Preload, ServerIdentity, ServerOptions},
    terms::Terms,
};
use hotcell_schemas::{
    PoolId, Role, TenantId, Trust, UnixMs, WorkerId,
    tenancy::TenantState,
    trust::{TrustError, TrustedKey},
};
use nkeys::KeyPair;
use serde_json::Value;
use std::{
    io,
    path::{Path, PathBuf},
};

/// Why an installation was not made or opened.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The file system refused.
    #[error("{} cannot be read or written", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A key.
    #[error("a key was not read or made")]
    Key(#[source] KeyError),
    /// A login.
    #[error("a login was not read or made")]
    Creds(#[source] CredsError),
    /// A JWT was not signed, or a stored one does not read.
    #[error("a jwt was not signed or read")]
    Jwt(#[source] JwtError),
    /// The trust list.
    #[error("the trust list was not made")]
    Trust(#[source] TrustError),
    /// The trust list as JSON.
    #[error("the trust list does not encode as JSON")]
    TrustJson(#[source] serde_json::Error),
    /// A file of the folder of revoked logins: without it a login would be taken again.
    #[error("{} does not say which login is revoked: restore it", .0.display())]
    Revoked(PathBuf),
    /// Nothing of the list of revoked logins can be forgotten.
    #[error("the account's list of revoked logins is full of such as have not ended")]
    RevokedFull,
    /// A scoped key of before, in an older copy of the folder.
    #[error("the scoped key of account {0} was replaced: take its file from where that was done")]
    Replaced(String),
    /// The configuration.
    #[error("the server's configuration was not made")]
    Config(#[source] PathError),
}

/// Issue time of a rendering that is only compared, never pushed.
const NEVER: UnixMs = UnixMs(0);

/// What `init` makes beside the operator and the services.
#[derive(Debug, Clone, Default)]
pub struct InitOptions {
    /// Issue time of what is new.
    pub now: UnixMs,
    /// Workers and their pools.
    pub workers: Vec<(WorkerId, Vec<PoolId>)>,
    /// Tenants, each with one login. Their records and consumers are made by
    /// [`crate::Admin::add_tenant`], on a running server.
    pub tenants: Vec<(TenantId, LoginName)>,
}

/// An account as the code renders it.
#[derive(Debug, Clone)]
pub struct RenderedAccount {
    /// `SYS`, `PIPELINE`, `ENCODERS` or `tenant-<tenant>`.
    pub name: String,
    /// Its JWT.
    pub jwt: String,
    /// The same, read.
    pub claims: Claims<AccountBody>,
}

/// An installation's folder.
#[derive(Debug)]
pub struct Installation {
    dir: PathBuf,
    store: KeyStore,
    keys: Keyring,
}

/// Makes the installation `dir`, or completes it.
///
/// # Errors
/// [`InitError`].
pub fn init(dir: &Path, options: &InitOptions) -> Result<Installation, InitError> {
    for folder in ["", "keys", "creds", "accounts", "resolver", "revoked"] {
        let path = dir.join(folder);
        files::private_dir(&path).map_err(|source| InitError::File { path, source })?;
    }
    let installation = Installation::load(dir, Missing::Create)?;
    let now = options.now;
    installation.render_operator(now)?;
    let mut accounts = installation.render_platform(now)?;
    for role in Role::PIPELINE {
        installation.issue(&Login::Service(role), now)?;
    }
    installation.issue(&Login::Sys, now)?;
    for (name, pools) in &options.workers {
        installation.issue_worker(name, pools, now)?;
    }
    for (tenant, user) in &options.tenants {
        accounts.push(installation.render_tenant(tenant, now)?);
        installation.issue_tenant(tenant, user, now)?;
    }
    for account in accounts {
        installation.seed_resolver(&account)?;
    }
    let trust =
        serde_json::to_string_pretty(&installation.trust()?).map_err(InitError::TrustJson)?;
    installation.write(&installation.trust_path(), &trust)?;
    Ok(installation)
}

impl Installation {
    /// Opens the installation that `init` made in `dir`.
    ///
    /// # Errors
    /// `Key` when it is incomplete.
    pub fn open(dir: &Path) -> Result<Self, InitError> {
        Self::load(dir, Missing::Refuse)
    }

    fn load(dir: &Path, missing: Missing) -> Result<Self, InitError> {
        let store = KeyStore::new(&dir.join("keys"));
        let keys = Keyring::assemble(|name, kind| store.key(name, kind, missing))
            .map_err(InitError::Key)?;
        Ok(Self { dir: dir.to_path_buf(), store, keys })
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The files of TLS of `name`, as `hotcell tls init` calls them, in the folder `tls`.
    #[must_use]
    pub fn tls(&self, name: &str) -> BrokerTls {
        let dir = self.dir.join("tls");
        BrokerTls {
            ca: dir.join("ca.pem"),
            cert: dir.join(format!("{name}.pem")),
            key: dir.join(format!("{name}.key")),
        }
    }

    /// The operator's keys.
    #[must_use]
    pub fn keys(&self) -> &Keyring {
        &self.keys
    }

    /// The credential file of `login`; it need not exist.
    #[must_use]
    pub fn creds_path(&self, login: &Login) -> PathBuf {
        self.dir.join("creds").join(login.file_name())
    }

    /// The trust list's file.
    #[must_use]
    pub fn trust_path(&self) -> PathBuf {
        self.dir.join("trust.json")
    }

    /// The login's credential file, read.
    ///
    /// # Errors
    /// `Creds`.
    pub fn creds(&self, login: &Login) -> Result<Creds, InitError> {
        creds::read(&self.creds_path(login)).map_err(InitError::Creds)
    }

    /// Which public key signs for which service, from the credential files.
    ///
    /// # Errors
    /// `Creds`, `Trust`.
    pub fn trust(&self) -> Result<Trust, InitError> {
        let mut keys = Vec::new();
        for role in Role::PIPELINE {
            let key = self.creds(&Login::Service(role))?.claims.sub;
            keys.push(TrustedKey { role, key });
        }
        Trust::new(keys).map_err(InitError::Trust)
    }

    /// The tenant's keys.
    ///
    /// # Errors
    /// `Key`.
    pub fn tenant_keys(
        &self,
        tenant: &TenantId,
        missing: Missing,
    ) -> Result<TenantKeys, InitError> {
        TenantKeys::assemble(tenant, |name, kind| self.store.key(name, kind, missing))
            .map_err(InitError::Key)
    }

    /// Makes a worker's credential file, or keeps the one with the same pools. Offline.
    ///
    /// # Errors
    /// `Creds` (`Taken` when the worker has other pools).
    pub fn issue_worker(
        &self,
        name: &WorkerId,
        pools: &[PoolId],
        now: UnixMs,
    ) -> Result<PathBuf, InitError> {
        self.issue(&Login::Worker { name: name.clone(), pools: pools.to_vec() }, now)
    }

    /// Makes a tenant's credential file, or keeps it. Offline; the tenant's keys must exist.
    ///
    /// # Errors
    /// `Key`, `Creds`.
    pub fn issue_tenant(
        &self,
        tenant: &TenantId,
        user: &LoginName,
        now: UnixMs,
    ) -> Result<PathBuf, InitError> {
        self.issue(&Login::Tenant { tenant: tenant.clone(), user: user.clone() }, now)
    }

    fn issue(&self, login: &Login, now: UnixMs) -> Result<PathBuf, InitError> {
        self.issue_with(login, None, now)
    }

    pub(crate) fn issue_with(
        &self,
        login: &Login,
        terms: Option<&Terms>,
        now: UnixMs,
    ) -> Result<PathBuf, InitError> {
        let path = self.creds_path(login);
        self.drop_revoked(&path)?;
        self.with_scope(login, |scope, account| {
            let issue = Issue { login, terms, scope, account: &account.public_key(), now };
            creds::issue(&path, &issue)
        })?;
        Ok(path)
    }

    /// Calls `act` with the scoped key that signs `login`, and its account.
    pub(crate) fn with_scope<T>(
        &self,
        login: &Login,
        act: impl FnOnce(&KeyPair, &KeyPair) -> Result<T, CredsError>,
    ) -> Result<T, InitError> {
        let tenant_keys;
        let (scope, account): (&KeyPair, &KeyPair) = match login {
            Login::Service(role) => {
                let Some(scope) = self.keys.services.get(role) else {
                    let missing = KeyError::Missing(self.dir.join("keys"));
                    return Err(InitError::Key(missing));
                };
                (scope, &self.keys.pipeline)
            }
            Login::Worker { .. } => (&self.keys.workers, &self.keys.encoders),
            Login::Sys => (&self.keys.sys_login, &self.keys.sys),
            Login::Tenant { tenant, .. } => {
                tenant_keys = self.tenant_keys(tenant, Missing::Refuse)?;
                (&tenant_keys.programs, &tenant_keys.account)
            }
        };
        act(scope, account).map_err(InitError::Creds)
    }

    /// SYS, PIPELINE and ENCODERS as the code says; the stored JWTs are kept where they say the same.
    ///
    /// # Errors
    /// `File`, `Jwt`.
    pub fn render_platform(&self, now: UnixMs) -> Result<Vec<RenderedAccount>, InitError> {
        Ok(vec![
            self.render("SYS", accounts::sys(&self.keys, now))?,
            self.render("PIPELINE", accounts::pipeline(&self.keys, now))?,
            self.render("ENCODERS", accounts::encoders(&self.keys, now))?,
        ])
    }

    /// SYS, PIPELINE and ENCODERS as the code says; writes nothing.
    ///
    /// # Errors
    /// `Jwt`.
    pub fn platform_accounts(&self) -> Result<Vec<RenderedAccount>, InitError> {
        Ok(vec![
            self.read_fresh("SYS", accounts::sys(&self.keys, NEVER))?,
            self.read_fresh("PIPELINE", accounts::pipeline(&self.keys, NEVER))?,
            self.read_fresh("ENCODERS", accounts::encoders(&self.keys, NEVER))?,
        ])
    }

    /// A tenant's account as the code says; writes nothing.
    ///
    /// # Errors
    /// `Key` when its keys are missing; `Jwt`.
    pub fn tenant_account(
        &self,
        tenant: &TenantId,
        state: TenantState,
    ) -> Result<RenderedAccount, InitError> {
        let keys = self.tenant_keys(tenant, Missing::Refuse)?;
        let jwt = accounts::tenant(&self.keys, &keys, tenant, state, NEVER);
        self.read_fresh(&tenant_account_name(tenant), jwt)
    }

    /// A tenant's account as the code says; makes its keys when they are missing.
    ///
    /// # Errors
    /// `Key`, `File`, `Jwt`.
    pub fn render_tenant(
        &self,
        tenant: &TenantId,
        now: UnixMs,
    ) -> Result<RenderedAccount, InitError> {
        self.render_tenant_as(tenant, TenantState::Active, now)
    }

    /// The same for a tenant in `state`. Of two JWTs the broker keeps the one that was issued
    /// later, in whole seconds: this one is issued after the one that it takes the place of.
    ///
    /// # Errors
    /// `Key`, `File`, `Jwt`.
    pub fn render_tenant_as(
        &self,
        tenant: &TenantId,
        state: TenantState,
        now: UnixMs,
    ) -> Result<RenderedAccount, InitError> {
        let keys = self.tenant_keys(tenant, Missing::Create)?;
        let name = tenant_account_name(tenant);
        let before = self.read(&self.account_path(&name))?;
        let before = before.and_then(|jwt| jwt::decode::<AccountBody>(&jwt).ok());
        let after = before.map_or(0, |claims| (claims.iat + 1) * 1000);
        let now = UnixMs(now.0.max(after));
        let jwt = accounts::tenant(&self.keys, &keys, tenant, state, now);
        self.render(&name, jwt)
    }

    /// The configuration of the server, from the JWTs as last rendered.
    ///
    /// # Errors
    /// `File`, `Config`.
    pub fn server_config(&self, options: &ServerOptions) -> Result<String, InitError> {
        let mut preload = Vec::new();
        for (name, key) in [
            ("SYS", &self.keys.sys),
            ("PIPELINE", &self.keys.pipeline),
            ("ENCODERS", &self.keys.encoders),
        ] {
            preload.push(Preload { account: key.public_key(), jwt: self.stored(name)? });
        }
        let identity = ServerIdentity {
            operator: self.stored("operator")?,
            system_account: self.keys.sys.public_key(),
            resolver_dir: self.dir.join("resolver"),
            preload,
        };
        server_config::render(&identity, options).map_err(InitError::Config)
    }

    fn render_operator(&self, now: UnixMs) -> Result<(), InitError> {
        let path = self.account_path("operator");
        let fresh = accounts::operator(&self.keys, now).map_err(InitError::Jwt)?;
        let stored = self.read(&path)?;
        let same = |text: &str| {
            let nats = |jwt| jwt::decode::<Value>(jwt).ok().map(|claims| claims.nats);
            nats(text) == nats(&fresh)
        };
        if stored.is_some_and(|text| same(&text)) { Ok(()) } else { self.write(&path, &fresh) }
    }

    fn render(
        &self,
        name: &str,
        fresh: Result<String, JwtError>,
    ) -> Result<RenderedAccount, InitError> {
        let fresh = self.read_fresh(name, fresh)?;
        let path = self.account_path(name);
        if let Some(jwt) = self.read(&path)?
            && let Ok(claims) = jwt::decode(&jwt)
            && comparable(&claims) == comparable(&fresh.claims)
        {
            return Ok(RenderedAccount { name: fresh.name, jwt, claims });
        }
        self.write(&path, &fresh.jwt)?;
        Ok(fresh)
    }

    /// What the code says, with the logins that are revoked.
    fn read_fresh(
        &self,
        name: &str,
        jwt: Result<String, JwtError>,
    ) -> Result<RenderedAccount, InitError> {
        let jwt = jwt.map_err(InitError::Jwt)?;
        let claims = jwt::decode(&jwt).map_err(InitError::Jwt)?;
        self.revoking(RenderedAccount { name: name.to_owned(), jwt, claims }, None)
    }

    pub(crate) fn account_path(&self, name: &str) -> PathBuf {
        self.dir.join("accounts").join(format!("{name}.jwt"))
    }

    fn stored(&self, name: &str) -> Result<String, InitError> {
        let path = self.account_path(name);
        self.read(&path)?.ok_or_else(|| {
            let source = io::Error::from(io::ErrorKind::NotFound);
            InitError::File { path, source }
        })
    }

    fn read(&self, path: &Path) -> Result<Option<String>, InitError> {
        files::read(path).map_err(|source| InitError::File { path: path.to_path_buf(), source })
    }

    fn write(&self, path: &Path, text: &str) -> Result<(), InitError> {
        files::private_file(path, text)
            .map_err(|source| InitError::File { path: path.to_path_buf(), source })
    }
}

pub(crate) fn tenant_account_name(tenant: &TenantId) -> String {
    format!("tenant-{tenant}")
}

/// What two renderings of one account have in common: everything but issue times and ids, in the
/// account and in its activation tokens.
#[must_use]
pub fn comparable(claims: &Claims<AccountBody>) -> Value {
    let mut claims = claims.clone();
    let mut tokens = Vec::new();
    for import in &mut claims.nats.imports {
        if let Some(token) = import.token.take() {
            let read = jwt::decode::<ActivationBody>(&token);
            tokens.push(read.map_or(Value::String(token), |claims| timeless(&claims)));
        }
    }
    let mut value = timeless(&claims);
    if let Some(fields) = value.as_object_mut() {
        fields.insert("tokens".to_owned(), Value::Array(tokens));
    }
    value
}

fn timeless<T: serde::Serialize>(claims: &Claims<T>) -> Value {
    let mut value = serde_json::to_value(claims).expect("claims hold string keys and numbers only");
    if let Some(fields) = value.as_object_mut() {
        fields.remove("iat");
        fields.remove("jti");
    }
    value
}

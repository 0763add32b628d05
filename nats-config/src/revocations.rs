//! The logins that are revoked, as files: one for each key, in the installation's folder `revoked`.
//!
//! Promises: a key that is written down here is in every rendering of its account, whoever renders it
//! and why, so that no later change of the account brings its login back; it is revoked for whatever
//! is signed at any time, so an agent that goes on renewing the login renews nothing. A scoped key that
//! was replaced is in the list as well: it says to an older copy of the folder not to bring it back.
//! Refuses: to read a folder in part, to forget a key whose last token has not ended, and to render an
//! account whose scoped key is in the list.

use crate::{
    accounts::{EVERY_USER, REVOKED_MAX, REVOKED_UNTIL_SECS},
    claims::AccountBody,
    creds::{self, Creds, CredsError},
    files,
    init::{InitError, Installation, RenderedAccount},
    jwt::{self, Claims},
    login::Login,
};
use hotcell_schemas::UnixMs;
use nkeys::{KeyPair, KeyPairType};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The folder.
const FOLDER: &str = "revoked";

/// What a file of it ends with.
const EXTENSION: &str = "json";

/// A login that the broker refuses for ever: its key, not its name, which may be given again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokedLogin {
    /// Its public key.
    pub key: String,
    /// Public key of its account.
    pub account: String,
    /// Its name, or that of the scoped key's file; `None` when the broker knew of it and this folder did not.
    pub name: Option<String>,
    /// Roles or pools, as the tags of its last token.
    pub tags: Vec<String>,
    /// When.
    pub revoked_at: UnixMs,
    /// End of its last token that we know of, in Unix seconds; `None` does not end.
    pub ends_at: Option<u64>,
    /// Whether it gave its place to another: the file is removed when the broker has forgotten it.
    #[serde(default)]
    pub pruned: bool,
}

impl Installation {
    /// The revoked logins, in the order in which they were revoked.
    ///
    /// # Errors
    /// `File`, `Revoked`.
    pub fn revoked(&self) -> Result<Vec<RevokedLogin>, InitError> {
        let mut all = self.written_down()?;
        all.retain(|login| !login.pruned);
        all.sort_by(|a, b| (a.revoked_at, &a.key).cmp(&(b.revoked_at, &b.key)));
        Ok(all)
    }

    /// Whether `key` is written down as revoked.
    pub(crate) fn is_revoked(&self, key: &str) -> Result<bool, InitError> {
        let path = self.revoked_path(key);
        path.try_exists().map_err(|source| InitError::File { path, source })
    }

    /// What `login` of `account` is to be revoked as, and its credential file, if that is here. Of one
    /// whose file is gone, what was written down last. `None` when there never was such a login.
    pub(crate) fn to_revoke(
        &self,
        login: &Login,
        account: &str,
        now: UnixMs,
    ) -> Result<Option<(RevokedLogin, Option<Creds>)>, InitError> {
        let name = login.name();
        let known = self.written_down()?;
        match creds::read(&self.creds_path(login)) {
            Ok(creds)
                if creds.claims.nats.issuer_account == account && creds.claims.name == name =>
            {
                let (claims, key) = (&creds.claims, &creds.claims.sub);
                let fresh = || RevokedLogin {
                    key: key.clone(),
                    account: account.to_owned(),
                    name: Some(name),
                    tags: claims.nats.tags.clone(),
                    revoked_at: now,
                    ends_at: claims.exp,
                    pruned: false,
                };
                let found = known.into_iter().find(|login| login.key == *key);
                Ok(Some((found.unwrap_or_else(fresh), Some(creds))))
            }
            Ok(_) | Err(CredsError::Missing(_)) => {
                let named = known.into_iter().filter(|login| {
                    login.account == account && login.name.as_deref() == Some(name.as_str())
                });
                Ok(named.max_by_key(|login| login.revoked_at).map(|login| (login, None)))
            }
            Err(other) => Err(InitError::Creds(other)),
        }
    }

    /// Writes a revocation down. Where the account's list is full, the one that was revoked first and
    /// whose token has ended gives its place; where none has, nothing is written.
    ///
    /// # Errors
    /// `RevokedFull`; `File`.
    pub(crate) fn write_revoked(&self, login: &RevokedLogin, now: UnixMs) -> Result<(), InitError> {
        let mut listed = self.revoked()?;
        listed.retain(|other| other.account == login.account && other.key != login.key);
        let ended = |login: &&mut RevokedLogin| login.ends_at.is_some_and(|end| end < now.secs());
        let excess = (listed.len() + 1).saturating_sub(REVOKED_MAX);
        let mut victims: Vec<_> = listed.iter_mut().filter(ended).take(excess).collect();
        if victims.len() < excess {
            return Err(InitError::RevokedFull);
        }
        for victim in &mut victims {
            victim.pruned = true;
            self.put_revoked(victim)?;
        }
        self.put_revoked(&RevokedLogin { pruned: false, ..login.clone() })
    }

    /// Writes down what the broker's `stored` account revokes and this folder does not know, as when
    /// the folder is an older copy; and removes the files of those that the broker has forgotten.
    pub(crate) fn follow_revoked(&self, stored: &Claims<AccountBody>) -> Result<(), InitError> {
        let known = self.written_down()?;
        for key in stored.nats.revocations.keys().filter(|key| *key != EVERY_USER) {
            if known.iter().any(|login| login.key == *key) {
                continue;
            }
            self.put_revoked(&RevokedLogin {
                key: key.clone(),
                account: stored.sub.clone(),
                name: None,
                tags: Vec::new(),
                revoked_at: UnixMs(stored.iat.saturating_mul(1000)),
                ends_at: None,
                pruned: false,
            })?;
        }
        let forgotten = known.iter().filter(|login| {
            login.pruned
                && login.account == stored.sub
                && !stored.nats.revocations.contains_key(&login.key)
        });
        forgotten.into_iter().try_for_each(|login| self.remove_file(self.revoked_path(&login.key)))
    }

    /// Writes down that the scoped key `key` of `account` was replaced.
    pub(crate) fn retire(
        &self,
        key: &str,
        account: &str,
        name: &str,
        now: UnixMs,
    ) -> Result<(), InitError> {
        self.put_revoked(&RevokedLogin {
            key: key.to_owned(),
            account: account.to_owned(),
            name: Some(name.to_owned()),
            tags: Vec::new(),
            revoked_at: now,
            ends_at: None,
            pruned: false,
        })
    }

    /// Forgets what was revoked in an account that is no more.
    pub(crate) fn forget_revoked(&self, account: &str) -> Result<(), InitError> {
        let known = self.written_down()?;
        let mut own = known.iter().filter(|login| login.account == account);
        own.try_for_each(|login| self.remove_file(self.revoked_path(&login.key)))
    }

    /// `account` with everything in it that is revoked, issued after `after` (Unix seconds) where it
    /// had to be signed again.
    ///
    /// # Errors
    /// `Replaced` when its scoped key is not the last one.
    pub(crate) fn revoking(
        &self,
        account: RenderedAccount,
        after: Option<u64>,
    ) -> Result<RenderedAccount, InitError> {
        let RenderedAccount { name, claims, .. } = &account;
        let mut body = claims.nats.clone();
        let own = self.revoked()?.into_iter().filter(|login| login.account == claims.sub);
        body.revocations.extend(own.map(|login| (login.key, REVOKED_UNTIL_SECS)));
        if body.signing_keys.iter().any(|key| body.revocations.contains_key(key.public())) {
            return Err(InitError::Replaced(name.clone()));
        }
        let late = after.is_some_and(|after| claims.iat <= after);
        if body == claims.nats && !late {
            return Ok(account);
        }
        let iat = claims.iat.max(after.map_or(0, |after| after + 1));
        let signer = &self.keys().operator_signing;
        let at = UnixMs(iat.saturating_mul(1000));
        let jwt = jwt::encode(signer, at, &claims.sub, &claims.name, &body);
        let jwt = jwt.map_err(InitError::Jwt)?;
        let claims = jwt::decode(&jwt).map_err(InitError::Jwt)?;
        Ok(RenderedAccount { name: name.clone(), jwt, claims })
    }

    /// Whether `login` has a credential file here, and not one whose key is revoked: as after a
    /// revocation that was interrupted.
    ///
    /// # Errors
    /// `File`.
    pub fn has_login(&self, login: &Login) -> Result<bool, InitError> {
        let path = self.creds_path(login);
        Ok(path.exists() && !self.holds_revoked(&path)?)
    }

    /// Removes the credential file of a login whose key is revoked, so that the name gets a new key.
    pub(crate) fn drop_revoked(&self, path: &Path) -> Result<(), InitError> {
        if self.holds_revoked(path)? { self.remove_file(path.to_path_buf()) } else { Ok(()) }
    }

    /// What does not read is for whoever reads it next.
    fn holds_revoked(&self, path: &Path) -> Result<bool, InitError> {
        creds::read(path).map_or(Ok(false), |creds| self.is_revoked(&creds.claims.sub))
    }

    /// Removes a file, if it is there.
    pub(crate) fn remove_file(&self, path: PathBuf) -> Result<(), InitError> {
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(InitError::File { path, source })
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// All files, those that gave their place included.
    fn written_down(&self) -> Result<Vec<RevokedLogin>, InitError> {
        let dir = self.dir().join(FOLDER);
        let failed = |source| InitError::File { path: dir.clone(), source };
        let entries = match fs::read_dir(&dir) {
            // An installation of before: nothing was ever revoked in it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(failed)?,
        };
        let mut all = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                all.extend(self.read_revoked(path)?);
            }
        }
        Ok(all)
    }

    /// One file; `None` when another command removed it meanwhile.
    fn read_revoked(&self, path: PathBuf) -> Result<Option<RevokedLogin>, InitError> {
        let text = files::read(&path);
        let text = text.map_err(|source| InitError::File { path: path.clone(), source })?;
        let Some(text) = text else { return Ok(None) };
        let read: Result<RevokedLogin, _> = serde_json::from_str(&text);
        match read {
            Ok(login) if may_be_listed(&login.key) && path == self.revoked_path(&login.key) => {
                Ok(Some(login))
            }
            Ok(_) | Err(_) => Err(InitError::Revoked(path)),
        }
    }

    fn put_revoked(&self, login: &RevokedLogin) -> Result<(), InitError> {
        let path = self.revoked_path(&login.key);
        let failed = |source| InitError::File { path: path.clone(), source };
        files::private_dir(&self.dir().join(FOLDER)).map_err(failed)?;
        let text = serde_json::to_string_pretty(login).expect("texts and numbers encode as JSON");
        files::private_file(&path, &text).map_err(failed)
    }

    fn revoked_path(&self, key: &str) -> PathBuf {
        self.dir().join(FOLDER).join(format!("{key}.{EXTENSION}"))
    }
}

/// Whether `key` is the public key of a user, or of the kind of scoped keys: anything else in an
/// account's list revokes nobody.
pub(crate) fn may_be_listed(key: &str) -> bool {
    let kind = KeyPair::from_public_key(key).map(|key| key.key_pair_type());
    matches!(kind, Ok(KeyPairType::User | KeyPairType::Account))
}

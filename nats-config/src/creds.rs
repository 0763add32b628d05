//! Credential files: a user JWT and its seed. Promises: a login of a scoped key states no right of
//! its own; an existing file is kept when it is that very login, and never silently replaced. What
//! is signed again keeps its key.

use crate::{
    claims::{UserBody, VERSION},
    files,
    jwt::{self, Claims, JwtError},
    login::Login,
    terms::{Life, Terms},
};
use hotcell_schemas::UnixMs;
use nkeys::{KeyPair, KeyPairType};
use std::{
    fmt, io,
    path::{Path, PathBuf},
};

/// Why a credential file was not read or made.
#[derive(Debug, thiserror::Error)]
pub enum CredsError {
    /// The file system refused.
    #[error("credential file {} cannot be read or written", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is not there.
    #[error("credential file {} is missing", .0.display())]
    Missing(PathBuf),
    /// Not a JWT and the seed of its subject.
    #[error("credential file {} does not hold a jwt and its seed", .0.display())]
    Malformed(PathBuf),
    /// The name is taken by a login of another account, other pools, or a replaced key.
    #[error(
        "credential file {} belongs to another login, or to one of other pools: revoke that one first, \
         or take another name",
        .0.display()
    )]
    Taken(PathBuf),
    /// The JWT was not signed.
    #[error("the user's jwt was not signed")]
    Jwt(#[source] JwtError),
    /// The new key has no seed.
    #[error("the user's key has no seed")]
    Seed(#[source] nkeys::error::Error),
}

/// A credential file's contents.
pub struct Creds {
    /// The JWT's claims.
    pub claims: Claims<UserBody>,
    /// The private key: also what a service signs its messages with.
    pub key: KeyPair,
    /// The file's text, for a client.
    pub text: String,
}

impl fmt::Debug for Creds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Creds").field("user", &self.claims.sub).finish_non_exhaustive()
    }
}

/// Reads the credential file `path`.
///
/// # Errors
/// `File`, `Missing`, `Malformed`.
pub fn read(path: &Path) -> Result<Creds, CredsError> {
    let malformed = || CredsError::Malformed(path.to_path_buf());
    let text = files::read(path)
        .map_err(|source| CredsError::File { path: path.to_path_buf(), source })?
        .ok_or_else(|| CredsError::Missing(path.to_path_buf()))?;
    let jwt = section(&text, "NATS USER JWT").ok_or_else(malformed)?;
    let claims: Claims<UserBody> = jwt::decode(jwt).map_err(|_| malformed())?;
    let seed = section(&text, "USER NKEY SEED").ok_or_else(malformed)?;
    let key = KeyPair::from_seed(seed).map_err(|_| malformed())?;
    if key.key_pair_type() != KeyPairType::User || key.public_key() != claims.sub {
        return Err(malformed());
    }
    Ok(Creds { claims, key, text })
}

/// How a login is made.
#[derive(Debug, Clone, Copy)]
pub struct Issue<'a> {
    /// Whose.
    pub login: &'a Login,
    /// Roles and life; `None` for a login of the platform, and to keep what a tenant's has.
    pub terms: Option<&'a Terms>,
    /// The scoped key that signs it.
    pub scope: &'a KeyPair,
    /// Public key of the account.
    pub account: &'a str,
    /// When.
    pub now: UnixMs,
}

/// Makes the credential file at `path`, or keeps the one that is there when it is the same login.
/// Other terms than the file's are put into it under the same key, so what the login signs is
/// still believed.
///
/// # Errors
/// [`CredsError`].
pub fn issue(path: &Path, issue: &Issue<'_>) -> Result<Creds, CredsError> {
    let login = issue.login;
    match read(path) {
        Err(CredsError::Missing(_)) => {}
        Err(other) => return Err(other),
        Ok(found) => {
            let body = &found.claims.nats;
            let same = found.claims.iss == issue.scope.public_key()
                && found.claims.name == login.name()
                && body.issuer_account == issue.account;
            if !same || !is_tenant(login) && body.tags != login.tags() {
                return Err(CredsError::Taken(path.to_path_buf()));
            }
            let terms = match issue.terms {
                Some(terms) => terms.clone(),
                // A login from before there were roles would open nothing.
                None if is_tenant(login) && body.tags.is_empty() => Terms::default(),
                None => return Ok(found),
            };
            if issue.terms.is_none_or(|terms| terms.life.is_none())
                && body.tags == terms.tags()
                && found.claims.exp.is_none()
            {
                return Ok(found);
            }
            return write(path, issue, &terms, &found.key);
        }
    }
    let terms = issue.terms.cloned().unwrap_or_default();
    write(path, issue, &terms, &KeyPair::new_user())
}

const fn is_tenant(login: &Login) -> bool {
    matches!(login, Login::Tenant { .. })
}

fn write(
    path: &Path,
    issue: &Issue<'_>,
    terms: &Terms,
    key: &KeyPair,
) -> Result<Creds, CredsError> {
    let tags = if is_tenant(issue.login) { terms.tags() } else { issue.login.tags() };
    let body = UserBody {
        kind: "user".to_owned(),
        version: VERSION,
        issuer_account: issue.account.to_owned(),
        tags,
    };
    let end = terms.life.map(|life| life.end(issue.now));
    sign(path, issue.scope, (&issue.login.name(), &body), key, (issue.now, end))
}

/// Signs the login that is at `path` again, for `life` from `now`: same key, name, account and
/// tags. Needs the scoped key of that login's role and no other.
///
/// # Errors
/// [`CredsError`]; `Taken` when `scope` is not the key that signed it before.
pub fn renew(path: &Path, scope: &KeyPair, life: Life, now: UnixMs) -> Result<Creds, CredsError> {
    let Creds { claims, key, .. } = read(path)?;
    if claims.iss != scope.public_key() {
        return Err(CredsError::Taken(path.to_path_buf()));
    }
    sign(path, scope, (&claims.name, &claims.nats), &key, (now, Some(life.end(now))))
}

/// Signs the login that is at `path` by another scoped key: same key, name, account, tags and end.
pub(crate) fn sign_by(path: &Path, scope: &KeyPair, now: UnixMs) -> Result<Creds, CredsError> {
    let Creds { claims, key, .. } = read(path)?;
    sign(path, scope, (&claims.name, &claims.nats), &key, (now, claims.exp))
}

/// Whether a login should be renewed: two thirds of `life` are over, or it does not end by itself,
/// or it ends later than one of `life` would.
#[must_use]
pub fn is_due(claims: &Claims<UserBody>, life: Life, now: UnixMs) -> bool {
    renew_in_secs(claims, life, now) == 0
}

/// Seconds from `now` after which [`is_due`] says yes.
#[must_use]
pub fn renew_in_secs(claims: &Claims<UserBody>, life: Life, now: UnixMs) -> u64 {
    let now = now.secs();
    match claims.exp {
        Some(end) if end <= now + life.secs() => {
            end.saturating_sub(now).saturating_sub(life.secs() / 3)
        }
        Some(_) | None => 0,
    }
}

fn sign(
    path: &Path,
    scope: &KeyPair,
    (name, body): (&str, &UserBody),
    key: &KeyPair,
    (now, end): (UnixMs, Option<u64>),
) -> Result<Creds, CredsError> {
    let jwt = jwt::encode_until(scope, now, end, &key.public_key(), name, body)
        .map_err(CredsError::Jwt)?;
    let seed = key.seed().map_err(CredsError::Seed)?;
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    files::private_file(path, &text)
        .map_err(|source| CredsError::File { path: path.to_path_buf(), source })?;
    read(path)
}

/// The line after `-----BEGIN <title>-----`.
fn section<'a>(text: &'a str, title: &str) -> Option<&'a str> {
    let begin = format!("-----BEGIN {title}-----");
    let mut lines = text.lines().skip_while(|line| line.trim() != begin);
    lines.next()?;
    lines.next().map(str::trim)
}

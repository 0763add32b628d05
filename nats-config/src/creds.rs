//! Credential files: a user JWT and its seed. Promises: a login of a scoped key states no right of
//! its own; an existing file is kept when it is that very login, and never silently replaced.

use crate::{
    claims::{UserBody, VERSION},
    files,
    jwt::{self, Claims, JwtError},
    login::Login,
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
    #[error("credential file {} belongs to another login", .0.display())]
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

/// Makes the credential file of `login` at `path`, signed by the scoped key `scope` of `account`;
/// keeps the one that is there when it is the same login.
///
/// # Errors
/// [`CredsError`].
pub fn issue(
    path: &Path,
    login: &Login,
    scope: &KeyPair,
    account: &str,
    now: UnixMs,
) -> Result<Creds, CredsError> {
    match read(path) {
        Err(CredsError::Missing(_)) => {}
        Err(other) => return Err(other),
        Ok(found) => {
            let same = found.claims.iss == scope.public_key()
                && found.claims.name == login.name()
                && found.claims.nats.issuer_account == account
                && found.claims.nats.tags == login.tags();
            return if same { Ok(found) } else { Err(CredsError::Taken(path.to_path_buf())) };
        }
    }
    let key = KeyPair::new_user();
    let body = UserBody {
        kind: "user".to_owned(),
        version: VERSION,
        issuer_account: account.to_owned(),
        tags: login.tags(),
    };
    let jwt = jwt::encode(scope, now, &key.public_key(), &login.name(), &body)
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

//! The server's own folder of accounts (`resolver`), before the server starts.
//!
//! Promises: an account in it is no older than the one that was last rendered, whatever backup the
//! folder came from, so that no login comes back which was revoked since. Refuses: to touch an account
//! that is newer there, or that is not of this installation.

use crate::{
    claims::AccountBody,
    files,
    init::{InitError, Installation, RenderedAccount},
    jwt::{self, Claims},
};
use std::{fs, io, path::PathBuf};

impl Installation {
    /// Gives the server the account before its first start. Later it is pushed: the folder is the
    /// server's own.
    pub(crate) fn seed_resolver(&self, account: &RenderedAccount) -> Result<(), InitError> {
        let path = self.resolver_path(&account.claims.sub);
        match read(&path)? {
            Some(_) => Ok(()),
            None => write(path, &account.jwt),
        }
    }

    /// Brings the folder up to date. Only while no server runs: one that does keeps what it has read.
    ///
    /// # Errors
    /// `File`.
    pub fn freshen_resolver(&self) -> Result<(), InitError> {
        let dir = self.dir().join("accounts");
        let failed = |source| InitError::File { path: dir.clone(), source };
        for entry in fs::read_dir(&dir).map_err(failed)? {
            let Some(text) = read(&entry.map_err(failed)?.path())? else { continue };
            // The operator's own is no account.
            let Ok(ours) = jwt::decode::<AccountBody>(&text) else { continue };
            let path = self.resolver_path(&ours.sub);
            let there = read(&path)?.and_then(|text| jwt::decode::<AccountBody>(&text).ok());
            if there.is_some_and(|there: Claims<AccountBody>| there.iat < ours.iat) {
                write(path, &text)?;
            }
        }
        Ok(())
    }

    fn resolver_path(&self, account: &str) -> PathBuf {
        self.dir().join("resolver").join(format!("{account}.jwt"))
    }
}

fn read(path: &std::path::Path) -> Result<Option<String>, InitError> {
    let failed = |source: io::Error| InitError::File { path: path.to_path_buf(), source };
    files::read(path).map_err(failed)
}

fn write(path: PathBuf, text: &str) -> Result<(), InitError> {
    files::private_file(&path, text).map_err(|source| InitError::File { path, source })
}

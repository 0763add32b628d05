//! The operator's keys. Promises: identity keys of accounts sign nothing (strict signing keys);
//! each service, the workers and each tenant have a scoped key of their own, so a login holds the
//! rights of its scope and no others, whoever made it.
//!
//! In production the folder stays on the operator's machine: no running service reads it.

use crate::files;
use hotcell_schemas::{Role, TenantId};
use nkeys::{KeyPair, KeyPairType};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

/// Why a key was not read or made.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file system refused.
    #[error("key file {} cannot be read or written", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The key is not there, and it was not asked to make one.
    #[error("key file {} is missing", .0.display())]
    Missing(PathBuf),
    /// None of a folder's keys signed the login.
    #[error(
        "no key in {} signed the login: after `rekey` it takes the new key and the login's new file",
        .0.display()
    )]
    Foreign(PathBuf),
    /// Not a seed, or a seed of another kind.
    #[error("key file {} does not hold a seed of the right kind", .0.display())]
    Malformed(PathBuf),
}

/// Whether a missing key is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// It is an error.
    Refuse,
    /// It is made.
    Create,
}

/// A folder of seeds.
#[derive(Debug, Clone)]
pub struct KeyStore {
    dir: PathBuf,
}

impl KeyStore {
    /// The folder `dir`.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_path_buf() }
    }

    /// The key called `name`.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn key(
        &self,
        name: &str,
        kind: KeyPairType,
        missing: Missing,
    ) -> Result<KeyPair, KeyError> {
        let path = self.dir.join(format!("{name}.nk"));
        let failed = |source| KeyError::File { path: path.clone(), source };
        if let Some(seed) = files::read(&path).map_err(failed)? {
            return match KeyPair::from_seed(seed.trim()) {
                Ok(key) if key.key_pair_type() == kind => Ok(key),
                Ok(_) | Err(_) => Err(KeyError::Malformed(path)),
            };
        }
        if missing == Missing::Refuse {
            return Err(KeyError::Missing(path));
        }
        let made = KeyPair::new(kind.clone());
        let seed = made.seed().map_err(|_| KeyError::Malformed(path.clone()))?;
        if files::new_private_file(&path, &seed).map_err(failed)? {
            return Ok(made);
        }
        // Another command made it at this moment: that one is the key.
        self.key(name, kind, Missing::Refuse)
    }

    /// Puts a new key into the file of `name`.
    ///
    /// # Errors
    /// `File`.
    pub(crate) fn replace(
        &self,
        name: &str,
        kind: KeyPairType,
    ) -> Result<(PathBuf, KeyPair), KeyError> {
        let path = self.dir.join(format!("{name}.nk"));
        let key = KeyPair::new(kind);
        let seed = key.seed().map_err(|_| KeyError::Malformed(path.clone()))?;
        match files::private_file(&path, &seed) {
            Ok(()) => Ok((path, key)),
            Err(source) => Err(KeyError::File { path, source }),
        }
    }
}

/// The key in the folder `dir` whose public half is `public`: of an agent that has one scoped key.
///
/// # Errors
/// `Foreign` when no file holds it; `File`.
pub fn scope_of(dir: &Path, public: &str) -> Result<KeyPair, KeyError> {
    let failed = |source| KeyError::File { path: dir.to_path_buf(), source };
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_none_or(|extension| extension != "nk") {
            continue;
        }
        let Some(seed) = files::read(&path).map_err(failed)? else { continue };
        let key = KeyPair::from_seed(seed.trim());
        if let Some(key) = key.ok().filter(|key| key.public_key() == public) {
            return Ok(key);
        }
    }
    Err(KeyError::Foreign(dir.to_path_buf()))
}

/// The keys of an installation, apart from its tenants'.
#[derive(Debug)]
pub struct Keyring {
    /// Identity of the operator; signs nothing but the operator's own JWT.
    pub operator: KeyPair,
    /// Signs account JWTs.
    pub operator_signing: KeyPair,
    /// The system account.
    pub sys: KeyPair,
    /// Scope of the operator's user in it.
    pub sys_login: KeyPair,
    /// Account PIPELINE.
    pub pipeline: KeyPair,
    /// Signs activation tokens for PIPELINE's private exports; makes no users here.
    pub pipeline_grants: KeyPair,
    /// Scope of each service in PIPELINE.
    pub services: BTreeMap<Role, KeyPair>,
    /// Account ENCODERS.
    pub encoders: KeyPair,
    /// Scope of the workers in it.
    pub workers: KeyPair,
}

impl Keyring {
    /// The keys, each from `get(name, kind)`.
    ///
    /// # Errors
    /// The first error of `get`.
    pub fn assemble<E>(
        mut get: impl FnMut(&str, KeyPairType) -> Result<KeyPair, E>,
    ) -> Result<Self, E> {
        use KeyPairType::{Account, Operator};
        let mut services = BTreeMap::new();
        for role in Role::PIPELINE {
            services.insert(role, get(&format!("pipeline.{role}"), Account)?);
        }
        Ok(Self {
            operator: get("operator", Operator)?,
            operator_signing: get("operator.signing", Operator)?,
            sys: get("sys", Account)?,
            sys_login: get("sys.login", Account)?,
            pipeline: get("pipeline", Account)?,
            pipeline_grants: get("pipeline.grants", Account)?,
            services,
            encoders: get("encoders", Account)?,
            workers: get("encoders.workers", Account)?,
        })
    }
}

/// The keys of one tenant's account.
#[derive(Debug)]
pub struct TenantKeys {
    /// The account.
    pub account: KeyPair,
    /// Scope of the tenant's programs in it.
    pub programs: KeyPair,
}

impl TenantKeys {
    /// The keys, each from `get(name, kind)`.
    ///
    /// # Errors
    /// The first error of `get`.
    pub fn assemble<E>(
        tenant: &TenantId,
        mut get: impl FnMut(&str, KeyPairType) -> Result<KeyPair, E>,
    ) -> Result<Self, E> {
        Ok(Self {
            account: get(&format!("tenant-{tenant}"), KeyPairType::Account)?,
            programs: get(&format!("tenant-{tenant}.programs"), KeyPairType::Account)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, sync::Barrier, thread};

    // Two `tenant add` of one name at once: the account of the record is that of the file.
    #[test]
    fn a_key_that_several_make_at_once_is_one() {
        const MAKERS: usize = 4;
        for _ in 0..50 {
            let dir = tempfile::tempdir().unwrap();
            let (store, barrier) = (KeyStore::new(dir.path()), Barrier::new(MAKERS));
            let make = || {
                barrier.wait();
                store
                    .key("tenant-acme", KeyPairType::Account, Missing::Create)
                    .unwrap()
                    .public_key()
            };
            let made: BTreeSet<String> = thread::scope(|scope| {
                let makers: Vec<_> = (0..MAKERS).map(|_| scope.spawn(make)).collect();
                makers.into_iter().map(|maker| maker.join().unwrap()).collect()
            });
            let kept = store.key("tenant-acme", KeyPairType::Account, Missing::Refuse).unwrap();
            assert_eq!(made, BTreeSet::from([kept.public_key()]));
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "a file was left aside");
        }
    }
}

//! The nats-server program. Promises: the one in the tools folder is the pinned one, by its own
//! hash, because the package that carries it is made by a third party. An operator's own program
//! is used as given.

use hotcell_schemas::Digest;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Environment variable that names another program.
pub const OVERRIDE: &str = "HOTCELL_NATS_SERVER";

/// Version of the pinned program.
pub const VERSION: &str = "2.15.1";

/// SHA-256 of the pinned program (linux x86-64).
pub const SHA256: &str = "dd9b8a99f78955e35108355176d2fe61269efb909698eb9fce3d5d81a70e2bda";

/// Where the tools folder holds it.
pub const IN_TOOLS: &str = "py/bin/nats-server";

/// Why no program was found.
#[derive(Debug, thiserror::Error)]
pub enum BinaryError {
    /// None there.
    #[error("nats-server {VERSION} is not at {}: run the set-up, or name one by {OVERRIDE}", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
        /// Why it was not read.
        #[source]
        source: io::Error,
    },
    /// Another program.
    #[error("{} is not the pinned nats-server {VERSION}: its hash is {found}", path.display())]
    Hash {
        /// Where.
        path: PathBuf,
        /// What it is.
        found: Digest,
    },
}

/// The program to run: `named` (from [`OVERRIDE`]) as given, or the pinned one in `tools`.
///
/// # Errors
/// `Missing`; `Hash` when the program in `tools` is not the pinned one.
pub fn find_nats_server(named: Option<PathBuf>, tools: &Path) -> Result<PathBuf, BinaryError> {
    if let Some(path) = named {
        return match fs::metadata(&path) {
            Ok(_) => Ok(path),
            Err(source) => Err(BinaryError::Missing { path, source }),
        };
    }
    let path = tools.join(IN_TOOLS);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(source) => return Err(BinaryError::Missing { path, source }),
    };
    let found = Digest::of(&bytes);
    if found.to_string() == SHA256 { Ok(path) } else { Err(BinaryError::Hash { path, found }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_program_in_the_tools_folder_is_refused() {
        let tools = tempfile::tempdir().unwrap();
        let missing = find_nats_server(None, tools.path());
        assert!(matches!(missing, Err(BinaryError::Missing { .. })));
        let path = tools.path().join(IN_TOOLS);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "#!/bin/sh\n").unwrap();
        assert!(matches!(find_nats_server(None, tools.path()), Err(BinaryError::Hash { .. })));
        assert_eq!(find_nats_server(Some(path.clone()), tools.path()).unwrap(), path);
    }
}

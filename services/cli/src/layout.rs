//! Where everything of an installation lies below its folder.

use crate::fail::{Context as _, Fail};
use hotcell_schemas::Role;
use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// The folder of an installation.
#[derive(Debug, Clone)]
pub(crate) struct Layout(PathBuf);

impl Layout {
    /// The installation below `dir`, made when it is not there; only its owner can look into it.
    pub(crate) fn create(dir: &Path) -> Result<Self, Fail> {
        make_dir(dir, 0o700)?;
        let dir = dir.canonicalize().or_fail("the data folder")?;
        let layout = Self(dir);
        for folder in ["nats", "secrets", "config", "logs", "run", "store", "audit"] {
            make_dir(&layout.0.join(folder), 0o700)?;
        }
        Ok(layout)
    }

    /// The installation below `dir`, which must be there.
    pub(crate) fn open(dir: &Path) -> Result<Self, Fail> {
        let found = dir.canonicalize().ok().filter(|dir| dir.join("nats").is_dir());
        found.map(Self).ok_or_else(|| {
            Fail::config(format!(
                "{} is no hotcell installation: start one with `hotcell up --data DIR`, or name \
                 its folder with --data or HOTCELL_DATA",
                dir.display()
            ))
        })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.0
    }
    /// What `hotcell nats init` writes.
    pub(crate) fn nats(&self) -> PathBuf {
        self.0.join("nats")
    }
    pub(crate) fn creds(&self, role: Role) -> PathBuf {
        self.nats().join("creds").join(format!("{role}.creds"))
    }
    pub(crate) fn trust(&self) -> PathBuf {
        self.nats().join("trust.json")
    }
    pub(crate) fn secret(&self, name: &str) -> PathBuf {
        self.0.join("secrets").join(name)
    }
    pub(crate) fn config(&self, name: &str) -> PathBuf {
        self.0.join("config").join(name)
    }
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.0.join("logs").join(format!("{name}.log"))
    }
    pub(crate) fn run(&self, name: &str) -> PathBuf {
        self.0.join("run").join(name)
    }
    pub(crate) fn audit_log(&self) -> PathBuf {
        self.0.join("audit")
    }
    /// The public key of the evidence log's checkpoints.
    pub(crate) fn audit_vkey(&self) -> PathBuf {
        self.0.join("audit.vkey")
    }
    pub(crate) fn store(&self) -> PathBuf {
        self.0.join("store")
    }
    pub(crate) fn dev_env(&self) -> PathBuf {
        self.0.join("dev.env")
    }
    /// Where a running installation's broker is, as the last `up` wrote it.
    pub(crate) fn nats_url(&self) -> Result<String, Fail> {
        self.env_value("HOTCELL_NATS")
    }

    /// A value of `dev.env`.
    pub(crate) fn env_value(&self, name: &str) -> Result<String, Fail> {
        let path = self.dev_env();
        let text = fs::read_to_string(&path).map_err(|_| {
            Fail::unreachable(format!("{} is missing: start `hotcell up` first", path.display()))
        })?;
        let prefix = format!("export {name}=");
        let value = text.lines().find_map(|line| line.strip_prefix(&prefix));
        value.and_then(shell_unquoted).ok_or_else(|| {
            Fail::config(format!("{} has no {name}: start `hotcell up` again", path.display()))
        })
    }
}

/// A text as one word of the shell's language (POSIX.1-2024, Shell Command Language 2.2.2).
pub(crate) fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// The text of a word that [`shell_quoted`] made.
fn shell_unquoted(word: &str) -> Option<String> {
    let inner = word.strip_prefix('\'')?.strip_suffix('\'')?;
    Some(inner.replace("'\\''", "'"))
}

/// A folder with exactly these permissions.
pub(crate) fn make_dir(path: &Path, mode: u32) -> Result<(), Fail> {
    let doing = format!("cannot make the folder {}", path.display());
    fs::create_dir_all(path).or_fail(&doing)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).or_fail(&doing)
}

/// Writes a file that only its owner can read: in whole, or not at all, also in a power cut.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<(), Fail> {
    write_owned(path, text.as_bytes(), 0o600, |_| Ok(()))
}

/// Writes a file with these permissions, which `give` may hand to another owner, in the place of
/// one that its owner may not be able to write.
pub(crate) fn write_owned(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    give: impl FnOnce(&Path) -> Result<(), Fail>,
) -> Result<(), Fail> {
    let doing = format!("cannot write {}", path.display());
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let aside = PathBuf::from(aside);
    let _left_by_a_crash = fs::remove_file(&aside);
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(mode).open(&aside).or_fail(&doing)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).or_fail(&doing)?;
    give(&aside)?;
    fs::rename(&aside, path).or_fail(&doing)
}

/// The secret in `path`; made by `make` when the file is not there, never replaced.
pub(crate) fn keep_secret(path: &Path, make: impl FnOnce() -> String) -> Result<String, Fail> {
    if !path.exists() {
        write_private(path, &format!("{}\n", make()))?;
    }
    let text = fs::read_to_string(path).or_fail(&format!("cannot read {}", path.display()))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder may be called anything: sourcing `dev.env` runs nothing but the assignments.
    #[test]
    fn values_of_dev_env_survive_the_shell() {
        for text in ["http://127.0.0.1:1", "/tmp/it's", "'; echo run >&2; '", "$(id)`id`\\", ""] {
            let quoted = shell_quoted(text);
            assert_eq!(shell_unquoted(&quoted).as_deref(), Some(text));
            let script = format!("export X={quoted}\nprintf %s \"$X\"");
            let shell = std::process::Command::new("sh").arg("-c").arg(script).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&shell.stdout), text);
            assert!(shell.stderr.is_empty(), "{text}");
        }
    }

    #[test]
    fn a_file_that_its_owner_may_not_write_is_replaced_and_closed_from_its_first_byte() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("worker.creds");
        for text in ["one", "two"] {
            write_owned(&path, text.as_bytes(), 0o400, |aside| {
                assert_eq!(fs::metadata(aside).unwrap().permissions().mode() & 0o777, 0o400);
                Ok(())
            })
            .unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o400);
        }
    }
}

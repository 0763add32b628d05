//! Landlock: what the payload may do with each path, and that it may not reach the network or other processes, even if
//! a mount or a namespace were wrong.
//!
//! Promises: every right that this kernel can take away is taken away unless a line below gives it back. Refuses to go
//! on with a ruleset that the kernel enforces only in part.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    PathFdError, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope,
};
use thiserror::Error;

use crate::mounts::{IN, OUT, TMP};

/// Newest ABI whose rights are all known here: 6 adds signal and abstract-socket scopes. A newer kernel still enforces
/// these.
const ABI_KNOWN: u32 = 6;
const ABI_WITH_NETWORK: u32 = 4;
const ABI_WITH_SCOPES: u32 = 6;

#[derive(Debug, Error)]
pub(crate) enum FenceError {
    #[error("Landlock refused a rule")]
    Rule(#[from] RulesetError),
    #[error("the cell has no {0:?}")]
    Path(PathBuf, #[source] PathFdError),
    #[error("Landlock enforces the rules only in part")]
    Partly,
}

/// Fences the calling process and all its children in. `top` is the cell's root, `executable` and its `interpreter` are
/// the only files that can be executed; `writable_out` says that there is an output folder.
pub(crate) fn raise(
    abi: u32,
    top: &Path,
    executable: &Path,
    interpreter: Option<&Path>,
    writable_out: bool,
) -> Result<(), FenceError> {
    let version = ABI::from(i32::try_from(abi.min(ABI_KNOWN)).unwrap_or(0));
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(version))?;
    if abi >= ABI_WITH_NETWORK {
        rules = rules.handle_access(AccessNet::BindTcp | AccessNet::ConnectTcp)?;
    }
    if abi >= ABI_WITH_SCOPES {
        rules = rules.scope(Scope::AbstractUnixSocket | Scope::Signal)?;
    }
    let mut rules = rules.create()?;

    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    // No folders, links, fifos, sockets or devices; no moving between folders.
    let write = read | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::MakeReg;
    for folder in ["/bin", "/lib", "/lib32", "/lib64", "/usr"] {
        if Path::new(folder).is_dir() {
            rules = allow(rules, Path::new(folder), read)?;
        }
    }
    for file in [Some(executable), interpreter].into_iter().flatten() {
        rules = allow(rules, file, AccessFs::ReadFile | AccessFs::Execute)?;
    }
    let beneath = |folder: &str| top.join(folder.trim_start_matches('/'));
    rules = allow(rules, &beneath(IN), read)?;
    rules = allow(rules, &beneath(TMP), write | AccessFs::RemoveFile)?;
    if writable_out {
        // Nothing is removed or replaced here: a file that is open and has no name fills the disk, and the tally of
        // the folder does not see it. Scratch files belong into /tmp, which is a file system with a size.
        rules = allow(rules, &beneath(OUT), write)?;
    }
    let status = rules.restrict_self()?;
    if status.ruleset == RulesetStatus::FullyEnforced { Ok(()) } else { Err(FenceError::Partly) }
}

fn allow(
    rules: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, FenceError> {
    let fd = PathFd::new(path).map_err(|error| FenceError::Path(path.to_owned(), error))?;
    Ok(rules.add_rule(PathBeneath::new(fd, access))?)
}

//! Which defences a host must have, and what happens when one is missing or switched off.
//!
//! Promises: a cell starts with every layer, or it does not start. Refuses to fall back silently: only with `--degraded`
//! does a cell start without what the host lacks or `--layer-off` names, and then every report names it.

use rustix::process::geteuid;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::plan::Identity;
use crate::{namespaces, sys};

/// The oldest Landlock with all file rights that matter here (truncate): Linux 6.2.
pub const LANDLOCK_ABI_MIN: u32 = 3;

/// A defence that a test may switch off, to show that an attack works without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// The system-call allowlist.
    Seccomp,
    /// File, network and signal rules by path, independent of mounts.
    Landlock,
    /// No memory that is writable and executable.
    Mdwe,
    /// A network namespace of its own, without an interface that is up.
    Network,
    /// The read-only root, and read-only inputs.
    ReadOnly,
    /// A root of its own: the host's tree is gone.
    Root,
    /// Mounts without programs, devices, set-user-id bits and symbolic links.
    MountFlags,
    /// An ordinary user of the host. Off only when the launcher is root.
    User,
    /// A user namespace, in which no right reaches the host. Off only when the launcher is root.
    UserNamespace,
    /// A process namespace: no other process has a number, and none outlives the cell.
    Pid,
    /// An IPC namespace: shared memory and message queues of its own.
    Ipc,
    /// Empty capability sets.
    Capabilities,
    /// No exec gives rights. Seccomp and Landlock need it, so it is off only when both of them are.
    NoNewPrivs,
    /// Process 1 cannot be traced or read.
    Hidden,
    /// rlimits, the size of `/tmp`, and for `hotcell breach` control groups.
    Limits,
    /// The launcher's clock and its count of the output folder.
    Watch,
    /// The launcher gives the payload an environment of one constant.
    Environment,
    /// The supervisor gives the launcher an empty environment.
    Spawn,
    /// The launcher closes every descriptor that it inherited.
    Descriptors,
}

impl Layer {
    /// All of them; those that a host may lack first, in the order in which they are reported.
    pub const ALL: [Self; 19] = [
        Self::Landlock,
        Self::Seccomp,
        Self::Mdwe,
        Self::UserNamespace,
        Self::Network,
        Self::ReadOnly,
        Self::Root,
        Self::MountFlags,
        Self::User,
        Self::Pid,
        Self::Ipc,
        Self::Capabilities,
        Self::NoNewPrivs,
        Self::Hidden,
        Self::Limits,
        Self::Watch,
        Self::Environment,
        Self::Spawn,
        Self::Descriptors,
    ];

    /// The name that `--layer-off` takes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Seccomp => "seccomp",
            Self::Landlock => "landlock",
            Self::Mdwe => "mdwe",
            Self::Network => "network",
            Self::ReadOnly => "read_only",
            Self::Root => "root",
            Self::MountFlags => "mount_flags",
            Self::User => "user",
            Self::UserNamespace => "user_namespace",
            Self::Pid => "pid",
            Self::Ipc => "ipc",
            Self::Capabilities => "capabilities",
            Self::NoNewPrivs => "no_new_privs",
            Self::Hidden => "hidden",
            Self::Limits => "limits",
            Self::Watch => "watch",
            Self::Environment => "environment",
            Self::Spawn => "spawn",
            Self::Descriptors => "descriptors",
        }
    }

    /// The layer with that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|layer| layer.name() == name)
    }

    /// Whether only a launcher that is root can leave it out.
    #[must_use]
    pub const fn needs_root_to_be_off(self) -> bool {
        matches!(self, Self::User | Self::UserNamespace)
    }
}

/// What the running kernel offers; measured by asking it, never from a version number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offered {
    /// 0 when the kernel has no Landlock, or has it switched off.
    pub landlock_abi: u32,
    /// seccomp filters that can kill the whole process.
    pub seccomp: bool,
    /// PR_SET_MDWE.
    pub mdwe: bool,
    /// User namespaces; also true where nobody tried, and then entering one is the try.
    pub user_namespace: bool,
}

impl Offered {
    /// Asks the kernel. User namespaces are tried in a process of its own, and only for `user`: every cell enters one
    /// anyway, so that only who could do without needs to know before.
    #[must_use]
    pub(crate) fn here(user: Option<Identity>) -> Self {
        let allowed = |user| !namespaces::are_denied(user).unwrap_or(false);
        Self {
            landlock_abi: sys::landlock_abi(),
            seccomp: sys::seccomp_can_kill(),
            mdwe: sys::has_mdwe(),
            // Without root there is no cell without a user namespace.
            user_namespace: !geteuid().is_root() || user.is_none_or(allowed),
        }
    }

    /// What this host lacks, each with a sentence that says what to change.
    pub(crate) fn missing(self) -> Vec<(Layer, Unfit)> {
        let abi = self.landlock_abi;
        let all = [
            (abi >= LANDLOCK_ABI_MIN, Layer::Landlock, Unfit::Landlock { abi }),
            (self.seccomp, Layer::Seccomp, Unfit::Seccomp),
            (self.mdwe, Layer::Mdwe, Unfit::Mdwe),
            (self.user_namespace, Layer::UserNamespace, Unfit::UserNamespace),
        ];
        let missing = all.into_iter().filter(|(there, ..)| !there);
        missing.map(|(_, layer, unfit)| (layer, unfit)).collect()
    }
}

/// Why a cell may not start on this host. Each sentence says what to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Unfit {
    /// Landlock is absent, off, or too old.
    #[error(
        "Landlock ABI {LANDLOCK_ABI_MIN} or later is needed and this kernel offers {abi}: run Linux 6.2 or later with \
         landlock in the lsm= boot parameter"
    )]
    Landlock {
        /// What the kernel said; 0 for none.
        abi: u32,
    },
    /// No seccomp filter.
    #[error("seccomp filters are not available: run a kernel with CONFIG_SECCOMP_FILTER")]
    Seccomp,
    /// No write-xor-execute.
    #[error("memory-deny-write-execute is not available: run Linux 6.3 or later")]
    Mdwe,
    /// No user namespace for an ordinary user.
    #[error(
        "user namespaces are not available: set user.max_user_namespaces above 0, \
         kernel.unprivileged_userns_clone to 1 and kernel.apparmor_restrict_unprivileged_userns to 0, where they exist"
    )]
    UserNamespace,
    /// A layer was switched off without saying so twice.
    #[error("a layer is switched off: remove --layer-off, or add --degraded if this is a test")]
    SwitchedOff,
}

/// The layers that will be off, in order and without repeats; empty for an honest cell. With `degraded`, a cell does
/// without exactly what this host lacks.
///
/// # Errors
/// [`Unfit`] when the host lacks a layer, or one is switched off, without `degraded`.
pub(crate) fn decide(offered: Offered, off: &[Layer], degraded: bool) -> Result<Vec<Layer>, Unfit> {
    if !off.is_empty() && !degraded {
        return Err(Unfit::SwitchedOff);
    }
    let mut layers = off.to_vec();
    for (layer, unfit) in offered.missing() {
        if !degraded {
            return Err(unfit);
        }
        layers.push(layer);
    }
    layers.sort_unstable();
    layers.dedup();
    Ok(layers)
}

#[cfg(test)]
mod tests {
    use super::{LANDLOCK_ABI_MIN, Layer, Offered, Unfit, decide};

    const GOOD: Offered =
        Offered { landlock_abi: 7, seccomp: true, mdwe: true, user_namespace: true };

    fn check(offered: Offered, off: &[Layer], degraded: bool, expect: Result<&[Layer], Unfit>) {
        assert_eq!(decide(offered, off, degraded), expect.map(<[Layer]>::to_vec));
    }

    #[test]
    fn a_good_host_is_not_degraded() {
        check(GOOD, &[], false, Ok(&[]));
        check(GOOD, &[], true, Ok(&[]));
    }

    #[test]
    fn a_missing_layer_refuses_and_only_degraded_goes_on_and_names_it() {
        let abi = LANDLOCK_ABI_MIN - 1;
        for (offered, unfit, layer) in [
            (Offered { landlock_abi: abi, ..GOOD }, Unfit::Landlock { abi }, Layer::Landlock),
            (Offered { seccomp: false, ..GOOD }, Unfit::Seccomp, Layer::Seccomp),
            (Offered { mdwe: false, ..GOOD }, Unfit::Mdwe, Layer::Mdwe),
            (Offered { user_namespace: false, ..GOOD }, Unfit::UserNamespace, Layer::UserNamespace),
        ] {
            check(offered, &[], false, Err(unfit));
            check(offered, &[], true, Ok(&[layer]));
            check(offered, &[layer], true, Ok(&[layer]));
        }
        let bare = Offered { landlock_abi: 0, seccomp: false, ..GOOD };
        check(bare, &[Layer::Mdwe], true, Ok(&[Layer::Seccomp, Layer::Landlock, Layer::Mdwe]));
    }

    #[test]
    fn a_switch_needs_degraded_and_is_recorded() {
        check(GOOD, &[Layer::Seccomp], false, Err(Unfit::SwitchedOff));
        let twice = [Layer::Mdwe, Layer::Seccomp, Layer::Mdwe];
        check(GOOD, &twice, true, Ok(&[Layer::Seccomp, Layer::Mdwe]));
        let none = Offered { landlock_abi: 0, ..GOOD };
        check(none, &[Layer::Landlock], true, Ok(&[Layer::Landlock]));
    }

    #[test]
    fn names_go_round() {
        for layer in Layer::ALL {
            assert_eq!(Layer::named(layer.name()), Some(layer));
            assert_eq!(serde_json::to_value(layer).unwrap(), layer.name());
        }
        assert_eq!(Layer::named("SECCOMP"), None);
    }
}

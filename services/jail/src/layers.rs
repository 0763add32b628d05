//! Which defences a host must have, and what happens when one is missing or switched off.
//!
//! Promises: a cell starts with every layer, or it does not start. Refuses to fall back silently: `--layer-off` works
//! only together with `--degraded`, and is then written into every report.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The oldest Landlock with all file rights that matter here (truncate): Linux 6.2.
pub const LANDLOCK_ABI_MIN: u32 = 3;

/// A defence that a test may switch off, to show that the attack works without it. The others have no switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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
    /// The read-only root.
    ReadOnly,
}

impl Layer {
    /// All of them, in the order in which a missing one is reported.
    pub const ALL: [Self; 5] =
        [Self::Landlock, Self::Seccomp, Self::Mdwe, Self::Network, Self::ReadOnly];

    /// The name that `--layer-off` takes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Seccomp => "seccomp",
            Self::Landlock => "landlock",
            Self::Mdwe => "mdwe",
            Self::Network => "network",
            Self::ReadOnly => "read_only",
        }
    }

    /// The layer with that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|layer| layer.name() == name)
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
}

impl Offered {
    /// Asks the kernel.
    #[must_use]
    pub fn here() -> Self {
        Self {
            landlock_abi: crate::sys::landlock_abi(),
            seccomp: crate::sys::seccomp_can_kill(),
            mdwe: crate::sys::has_mdwe(),
        }
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
    /// A layer was switched off without saying so twice.
    #[error("a layer is switched off: remove --layer-off, or add --degraded if this is a test")]
    SwitchedOff,
}

/// The layers that will be off, in order and without repeats; empty for an honest cell.
///
/// # Errors
/// [`Unfit`] when the host lacks a layer that is not switched off, or a switch comes without `degraded`.
pub fn decide(offered: Offered, off: &[Layer], degraded: bool) -> Result<Vec<Layer>, Unfit> {
    if !off.is_empty() && !degraded {
        return Err(Unfit::SwitchedOff);
    }
    let needed = |layer: Layer| !off.contains(&layer);
    if needed(Layer::Landlock) && offered.landlock_abi < LANDLOCK_ABI_MIN {
        return Err(Unfit::Landlock { abi: offered.landlock_abi });
    }
    if needed(Layer::Seccomp) && !offered.seccomp {
        return Err(Unfit::Seccomp);
    }
    if needed(Layer::Mdwe) && !offered.mdwe {
        return Err(Unfit::Mdwe);
    }
    let mut layers = off.to_vec();
    layers.sort_unstable();
    layers.dedup();
    Ok(layers)
}

#[cfg(test)]
mod tests {
    use super::{Layer, Offered, Unfit, decide};

    const GOOD: Offered = Offered { landlock_abi: 7, seccomp: true, mdwe: true };

    fn check(offered: Offered, off: &[Layer], degraded: bool, expect: Result<&[Layer], Unfit>) {
        assert_eq!(decide(offered, off, degraded), expect.map(<[Layer]>::to_vec));
    }

    #[test]
    fn a_good_host_is_not_degraded() {
        check(GOOD, &[], false, Ok(&[]));
        check(GOOD, &[], true, Ok(&[]));
    }

    #[test]
    fn a_missing_layer_refuses_even_when_degraded_is_said() {
        for degraded in [false, true] {
            let old = Offered { landlock_abi: 2, ..GOOD };
            check(old, &[], degraded, Err(Unfit::Landlock { abi: 2 }));
            check(Offered { seccomp: false, ..GOOD }, &[], degraded, Err(Unfit::Seccomp));
            check(Offered { mdwe: false, ..GOOD }, &[], degraded, Err(Unfit::Mdwe));
        }
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

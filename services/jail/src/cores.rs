//! Where the kernel takes the memory of a process that crashed.
//!
//! Promises: finds a host on which a crash in a cell would start a program as the host's root, fed with whatever the
//! payload has in its memory. Refuses to guess what that program does with it.

use std::fs;

use rustix::process::{Resource, getrlimit};
use thiserror::Error;

/// See [`stay_in`].
#[derive(Debug, Error)]
#[error(
    "this host hands core files to a program (kernel.core_pattern), and only a core limit of exactly 1 keeps those of \
     cells from it: raise the hard limit from 0 to 1 (ulimit -Hc 1, LimitCORE=1, --ulimit core=1)"
)]
pub(crate) struct CoresLeave;

/// Whether the limit that a cell sets itself keeps its cores in. core(5): a limit of 0 does not stop a program behind a
/// pipe, only 1 does; and a hard limit of 0, as hardened hosts have it, cannot be raised to 1 without a capability.
pub(crate) fn stay_in() -> Result<(), CoresLeave> {
    let hard = getrlimit(Resource::Core).maximum;
    // Without /proc there is no cell, for other reasons.
    let pattern = fs::read("/proc/sys/kernel/core_pattern").unwrap_or_default();
    if leave(hard, &pattern) { Err(CoresLeave) } else { Ok(()) }
}

fn leave(hard: Option<u64>, pattern: &[u8]) -> bool {
    hard == Some(0) && pattern.starts_with(b"|")
}

#[cfg(test)]
mod tests {
    use super::leave;

    /// BRK-38: apport and systemd-coredump run as the host's root.
    #[test]
    fn a_hard_limit_of_0_is_none() {
        let program = b"|/usr/share/apport/apport -p%p -s%s\n".as_slice();
        assert!(leave(Some(0), program));
        assert!(!leave(Some(1), program) && !leave(None, program));
        assert!(!leave(Some(0), b"core\n") && !leave(Some(0), b"/var/crash/%e\n"));
        assert!(!leave(Some(0), b""));
    }
}

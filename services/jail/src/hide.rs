//! What another process of the same user may learn of this one: nothing. Cells cannot look at processes at all; this
//! keeps the workers of one host, which share a user, from each other.
//!
//! Promises: afterwards no process without CAP_SYS_PTRACE can read this one's memory, environment or descriptors, or
//! trace it, and it leaves no core. Refuses to last longer than exec(2): a child program decides for itself.

use std::io;

use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// Hides this process. `/proc/self` belongs to root from then on, and its files can still be read from within.
///
/// # Errors
/// What prctl(2) says of PR_SET_DUMPABLE.
pub fn hide_from_others() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

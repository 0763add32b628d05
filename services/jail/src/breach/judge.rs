//! Did it work, and if not, what was in the way?
//!
//! Promises: what the launcher and the host saw decides, and of the program's own words only those against us. Refuses
//! to repeat what the program printed.

use std::io;

use serde::Serialize;

use super::{Attack, LIMITS, Proof};
use crate::cell::{End, Outcome};
use crate::limits::{STDERR_END_BYTES_MAX, STDOUT_LINE_BYTES_MAX};

/// Bytes of standard output that are kept of one attack.
pub(super) const STDOUT_BYTES_MAX: usize = 16 * STDOUT_LINE_BYTES_MAX;

/// How an attack went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// It worked.
    pub succeeded: bool,
    /// What was in the way, or what it got.
    pub by: String,
}

/// What the host saw of one attack.
pub(super) struct Seen<'a> {
    pub(super) outcome: &'a Outcome,
    /// A process of it is still there.
    pub(super) survivor: bool,
    pub(super) canary: &'a str,
}

pub(super) fn judge(attack: &Attack, seen: &Seen<'_>) -> Verdict {
    let Outcome { end, stdout, stderr, .. } = seen.outcome;
    let text = String::from_utf8_lossy(&stdout.bytes);
    let exited = *end == End::Exited(0);
    let succeeded = match attack.proof {
        Proof::Done | Proof::Heirloom | Proof::Terminal => exited,
        Proof::Leak => text.contains(seen.canary),
        Proof::Survivor => seen.survivor,
        Proof::Flood => {
            let kept = stderr.head.len() + stderr.tail.len();
            stdout.bytes.len() > STDOUT_BYTES_MAX || kept > 2 * STDERR_END_BYTES_MAX
        }
    };
    let by = match (succeeded, attack.proof) {
        (true, Proof::Leak) => "read the canary".to_owned(),
        (true, Proof::Survivor) => "a process outlived the cell".to_owned(),
        (true, Proof::Flood) => "more was kept than there is room for".to_owned(),
        (true, _) => "it worked".to_owned(),
        (false, Proof::Flood) if exited => "kept up to the limit, the rest forgotten".to_owned(),
        (false, _) => stop(seen.outcome, &text),
    };
    Verdict { succeeded, by }
}

fn stop(outcome: &Outcome, text: &str) -> String {
    /// signal(7)
    const SIGSYS: i32 = 31;
    match &outcome.end {
        End::Signaled(SIGSYS) => match outcome.violation.as_deref() {
            None | Some("unknown") => "killed for a forbidden call".to_owned(),
            Some(call) => format!("killed for `{call}`"),
        },
        End::Signaled(9) => "killed: hard limit, or out of memory".to_owned(),
        End::Signaled(11) => "crashed (SIGSEGV)".to_owned(),
        End::Signaled(24) => format!("limit: {} s of processor time", LIMITS.cpu_secs),
        End::Signaled(25) => format!("limit: {} bytes in one file", LIMITS.output_bytes),
        End::Signaled(signal) => format!("ended by signal {signal}"),
        End::Exited(0) => "found nothing".to_owned(),
        End::Exited(_) => refusal(text).unwrap_or_else(|| "failed".to_owned()),
        End::WallClock => format!("limit: {} s of wall clock", LIMITS.wall_secs),
        End::OutputLimit => "limit: output".to_owned(),
        End::Memory => "limit: memory of the control group".to_owned(),
        End::Pids => "limit: processes of the control group".to_owned(),
        End::Stalled => "limit: no progress".to_owned(),
        End::Cancelled => "cancelled".to_owned(),
        End::LauncherRefused(why) => why.clone(),
    }
}

/// The error that the program met, from its last line.
pub(super) fn errno(text: &str) -> Option<i32> {
    text.lines().next_back()?.strip_prefix("refused errno=")?.parse().ok()
}

fn refusal(text: &str) -> Option<String> {
    let number = errno(text)?;
    if number == 0 {
        return Some("found nothing".to_owned());
    }
    let said = io::Error::from_raw_os_error(number).to_string();
    let said = said.split(" (os error").next().unwrap_or_default().to_lowercase();
    Some(name(number).map_or_else(|| said.clone(), |name| format!("{name}: {said}")))
}

/// errno(3), as far as the kernel has them for refusals.
fn name(number: i32) -> Option<&'static str> {
    let known = [
        (libc::EPERM, "EPERM"),
        (libc::ENOENT, "ENOENT"),
        (libc::ESRCH, "ESRCH"),
        (libc::EBADF, "EBADF"),
        (libc::EAGAIN, "EAGAIN"),
        (libc::ENOMEM, "ENOMEM"),
        (libc::EACCES, "EACCES"),
        (libc::EBUSY, "EBUSY"),
        (libc::EEXIST, "EEXIST"),
        (libc::EXDEV, "EXDEV"),
        (libc::ENODEV, "ENODEV"),
        (libc::EINVAL, "EINVAL"),
        (libc::EMFILE, "EMFILE"),
        (libc::ENOTTY, "ENOTTY"),
        (libc::EFBIG, "EFBIG"),
        (libc::ENOSPC, "ENOSPC"),
        (libc::EROFS, "EROFS"),
        (libc::ENOSYS, "ENOSYS"),
        (libc::ELOOP, "ELOOP"),
        (libc::EAFNOSUPPORT, "EAFNOSUPPORT"),
        (libc::ENETDOWN, "ENETDOWN"),
        (libc::ENETUNREACH, "ENETUNREACH"),
        (libc::ECONNREFUSED, "ECONNREFUSED"),
        (libc::EOPNOTSUPP, "EOPNOTSUPP"),
    ];
    known.into_iter().find(|(code, _)| *code == number).map(|(_, name)| name)
}

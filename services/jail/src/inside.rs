//! Process 1 of the cell: takes everything away from itself, forks the payload, then waits for it.
//!
//! Promises: the payload's first instruction runs with every layer up; how it ended reaches the launcher through a pipe
//! that closes on exec. Refuses to start the payload when any step fails: there is no "try" here that goes on.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, fcntl_dupfd_cloexec, write};
use rustix::process::{
    DumpableBehavior, PidfdFlags, Resource, Rlimit, Signal, getrlimit, pidfd_open,
    pidfd_send_signal, set_dumpable_behavior, set_parent_process_death_signal, setrlimit, setsid,
};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_capabilities_secure_bits,
    set_no_new_privs,
};
use thiserror::Error;

use crate::fence::FenceError;
use crate::layers::{Layer, Offered};
use crate::limits::{CPU_HARD_EXTRA_SECS, CellLimits, STACK_BYTES};
use crate::mounts::{self, MountError, Tree};
use crate::plan::Plan;
use crate::profile::{EXEC_FD, Filters};
use crate::{elf, fence, sys};

/// The exit code of a process that could not become, or wait for, the payload.
pub(crate) const REFUSED: u8 = 125;
/// One note must fit into a pipe at once, so that writing never blocks. PIPE_BUF is 4096.
const NOTE_BYTES_MAX: usize = 2048;
/// Besides the payload, the launcher and this process count against RLIMIT_NPROC in the cell's user namespace.
const OWN_PROCS: u64 = 2;

#[derive(Debug, Error)]
pub(crate) enum InsideError {
    #[error("cannot tie the cell's life to the launcher's")]
    Lifeline(#[source] Errno),
    #[error("the launcher is gone")]
    Orphaned,
    #[error("cannot detach from the launcher's standard input and session")]
    Detach(#[source] Errno),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error("cannot open the payload in the cell: is it part of this root folder")]
    Payload(#[source] io::Error),
    #[error("descriptor {EXEC_FD} is taken")]
    ExecFd,
    #[error("cannot drop capabilities")]
    Capabilities(#[source] Errno),
    #[error("cannot refuse new privileges")]
    NoNewPrivs(#[source] Errno),
    #[error("cannot hide this process's memory")]
    Dumpable(#[source] Errno),
    #[error("cannot forbid writable code")]
    Mdwe(#[source] io::Error),
    #[error(transparent)]
    Fence(#[from] FenceError),
    #[error("cannot set the limit {0:?}")]
    Limit(Resource, #[source] Errno),
    #[error("cannot watch the payload")]
    Watch(#[source] Errno),
    #[error("cannot fork the payload")]
    Fork(#[source] io::Error),
    #[error("an argument holds a zero byte")]
    Argument,
    #[error("cannot add the system-call filter")]
    Filter(#[source] io::Error),
    #[error(
        "cannot watch over exec: switch off system-call interception in the container manager, if there is one"
    )]
    Listen(#[source] io::Error),
    #[error("cannot start the payload: is its dynamic loader part of this root folder")]
    Exec(#[source] io::Error),
}

/// What the launcher hands to process 1.
#[derive(Debug)]
pub(crate) struct Inside<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) off: &'a [Layer],
    pub(crate) offered: Offered,
    pub(crate) filters: &'static Filters,
    /// Mounts that were taken while still root; `None` when the launcher never was.
    pub(crate) tree: Option<Tree>,
    pub(crate) null: &'a OwnedFd,
    /// Write end of the pipe to the launcher.
    pub(crate) notes: OwnedFd,
    /// Read end of a pipe that only the launcher can close: then the payload must die.
    pub(crate) leash: OwnedFd,
}

/// A word from inside the cell.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// The payload did not start, and why.
    Refused(String),
    /// Its wait status.
    Ended(i32),
}

impl Note {
    /// Reads what the pipe held. A refusal comes before the status of the process that refused, and wins.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first()? {
            (b'R', text) => {
                let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
                Some(Self::Refused(String::from_utf8_lossy(text).into_owned()))
            }
            (b'S', status) => Some(Self::Ended(i32::from_le_bytes(status.try_into().ok()?))),
            _ => None,
        }
    }

    fn send(&self, pipe: &OwnedFd) {
        let mut bytes = match self {
            Self::Refused(text) => [b"R", text.as_bytes()].concat(),
            Self::Ended(status) => [b"S".as_slice(), &status.to_le_bytes()].concat(),
        };
        bytes.truncate(NOTE_BYTES_MAX);
        if matches!(self, Self::Refused(_)) {
            bytes.push(0);
        }
        // Nobody is left to tell if this fails; the launcher treats silence as a refusal.
        write(pipe, &bytes).ok();
    }
}

/// Runs as process 1, or as the payload; never returns.
pub(crate) fn run(inside: Inside<'_>) -> ! {
    let notes = match inside.notes.try_clone() {
        Ok(notes) => notes,
        Err(_) => sys::exit_now(REFUSED),
    };
    match start(inside) {
        Ok(never) => match never {},
        Err(error) => {
            Note::Refused(crate::launcher::sentence(&error)).send(&notes);
            sys::exit_now(REFUSED)
        }
    }
}

fn start(mut inside: Inside<'_>) -> Result<std::convert::Infallible, InsideError> {
    follow_launcher(inside.leash.as_fd())?;
    rustix::stdio::dup2_stdin(inside.null).map_err(InsideError::Detach)?;
    setsid().map_err(InsideError::Detach)?;
    let (plan, off) = (inside.plan, inside.off);

    mounts::make_private()?;
    let tree = match inside.tree.take() {
        Some(tree) => tree,
        None => Tree::detach(plan, off)?,
    };
    tree.enter(&plan.root, plan.limits.tmp_bytes)?;
    rustix::system::sethostname(b"cell").map_err(InsideError::Detach)?;

    let path = Path::new(plan.argv.first().ok_or(InsideError::Argument)?);
    let interpreter = elf::interpreter(path).map_err(InsideError::Payload)?;
    let executable = executable(path)?;

    drop_capabilities()?;
    set_no_new_privs(true).map_err(InsideError::NoNewPrivs)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(InsideError::Dumpable)?;
    if !off.contains(&Layer::Mdwe) {
        sys::refuse_writable_code().map_err(InsideError::Mdwe)?;
    }
    if !off.contains(&Layer::Landlock) {
        let abi = inside.offered.landlock_abi;
        fence::raise(abi, path, interpreter.as_deref(), plan.out_dir.is_some())?;
    }

    let seccomp = !off.contains(&Layer::Seccomp);
    let execs = seccomp.then(sys::ask_before_exec).transpose().map_err(InsideError::Listen)?;
    match sys::fork().map_err(InsideError::Fork)? {
        None => become_payload(&inside, &executable),
        Some(payload) => {
            drop(executable);
            let payload = pidfd_open(payload, PidfdFlags::empty()).map_err(InsideError::Watch)?;
            if let Some(execs) = &execs {
                let_it_start(&payload, &inside.leash, execs)?;
                sys::add_filter(inside.filters.init).map_err(InsideError::Filter)?;
            }
            wait_for_payload(&payload, &inside.leash, execs.as_ref(), &inside.notes)
        }
    }
}

/// Dies with the launcher, also when that died between fork and here.
fn follow_launcher(leash: BorrowedFd<'_>) -> Result<(), InsideError> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(InsideError::Lifeline)?;
    let mut launcher = [PollFd::new(&leash, PollFlags::empty())];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let gone = poll(&mut launcher, Some(&at_once)).map_err(InsideError::Lifeline)? > 0;
    if gone { Err(InsideError::Orphaned) } else { Ok(()) }
}

/// The payload on descriptor [`EXEC_FD`], close-on-exec.
fn executable(path: &Path) -> Result<OwnedFd, InsideError> {
    let failed = |errno: Errno| InsideError::Payload(errno.into());
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = open(path, flags, Mode::empty()).map_err(failed)?;
    let numbered = fcntl_dupfd_cloexec(&file, EXEC_FD).map_err(failed)?;
    if numbered.as_raw_fd() == EXEC_FD { Ok(numbered) } else { Err(InsideError::ExecFd) }
}

/// Empties every capability set, and makes sure that no exec and no change of user id could fill one again.
fn drop_capabilities() -> Result<(), InsideError> {
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        match remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // Past the last capability of this kernel.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(InsideError::Capabilities(errno)),
        }
    }
    clear_ambient_capability_set().map_err(InsideError::Capabilities)?;
    let locked = CapabilitiesSecureBits::NO_ROOT
        | CapabilitiesSecureBits::NO_ROOT_LOCKED
        | CapabilitiesSecureBits::NO_SETUID_FIXUP
        | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
        | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
    set_capabilities_secure_bits(locked).map_err(InsideError::Capabilities)?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    set_capabilities(None, sets).map_err(InsideError::Capabilities)
}

fn set_limits(limits: &CellLimits) -> Result<(), InsideError> {
    let cpu_hard = limits.cpu_secs.saturating_add(CPU_HARD_EXTRA_SECS);
    // RLIMIT_NPROC is set inside the user namespace, so it counts this cell only and not the user on the host.
    let procs = limits.procs.saturating_add(OWN_PROCS);
    let all = [
        // 0 would stop files only: a program in core_pattern is started, as the host's root, at any limit but 1, and
        // the smallest core file is a page: core(5).
        (Resource::Core, 1, 1),
        (Resource::Memlock, 0, 0),
        (Resource::Msgqueue, 0, 0),
        (Resource::Stack, STACK_BYTES, STACK_BYTES),
        (Resource::Fsize, limits.output_bytes, limits.output_bytes),
        (Resource::Cpu, limits.cpu_secs, cpu_hard),
        (Resource::Nproc, procs, procs),
        (Resource::Nofile, limits.nofile, limits.nofile),
        (Resource::As, limits.memory_bytes, limits.memory_bytes),
    ];
    for (resource, soft, hard) in all {
        // A host's own hard limit may be lower, and cannot be raised without CAP_SYS_RESOURCE.
        let ceiling = getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let new = Rlimit { current: Some(soft.min(ceiling)), maximum: Some(hard.min(ceiling)) };
        setrlimit(resource, new).map_err(|errno| InsideError::Limit(resource, errno))?;
    }
    Ok(())
}

fn become_payload(
    inside: &Inside<'_>,
    executable: &OwnedFd,
) -> Result<std::convert::Infallible, InsideError> {
    let argv: Result<Vec<CString>, _> =
        inside.plan.argv.iter().map(|arg| CString::new(arg.as_bytes())).collect();
    let argv = argv.map_err(|_| InsideError::Argument)?;
    let environment = [c"LC_ALL=C".to_owned()];
    set_limits(&inside.plan.limits)?;
    sys::default_signals();
    if !inside.off.contains(&Layer::Seccomp) {
        sys::add_filter(inside.filters.payload).map_err(InsideError::Filter)?;
    }
    Err(InsideError::Exec(sys::exec(executable.as_fd(), &argv, &environment)))
}

/// Lets the payload's first exec go on. Returns too when there will be none: who waits next sees why.
fn let_it_start(payload: &OwnedFd, leash: &OwnedFd, execs: &OwnedFd) -> Result<(), InsideError> {
    let mut fds = [
        PollFd::new(execs, PollFlags::IN),
        PollFd::new(payload, PollFlags::IN),
        PollFd::new(leash, PollFlags::empty()),
    ];
    poll(&mut fds, None).map_err(InsideError::Watch)?;
    match fds.map(|fd| !fd.revents().is_empty()) {
        [true, false, false] => match sys::let_exec(execs.as_fd()) {
            // Killed while it waited.
            Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => Ok(()),
            other => other.map_err(InsideError::Listen),
        },
        _ => Ok(()),
    }
}

/// An init's whole duty: reap, and tell how the first child ended. Leaving ends the namespace and all in it.
///
/// The launcher ends a cell by letting go of the leash, and not by killing this process: the kernel adds up the time
/// and memory of a child only if its parent lives to reap it.
///
/// A second exec waits at `execs` for an answer that never comes, and the payload is told of as ended by its filter:
/// that filter sees descriptor numbers but no paths, and an absolute path makes the kernel ignore the descriptor.
fn wait_for_payload(
    payload: &OwnedFd,
    leash: &OwnedFd,
    execs: Option<&OwnedFd>,
    notes: &OwnedFd,
) -> ! {
    /// This process is 1 and its only child is the next.
    const PAYLOAD: i32 = 2;
    let mut fds = [
        PollFd::new(payload, PollFlags::IN),
        PollFd::new(leash, PollFlags::empty()),
        PollFd::new(execs.unwrap_or(leash), PollFlags::IN),
    ];
    let watched = if execs.is_some() { &mut fds[..] } else { &mut fds[..2] };
    // Any signal or error counts as "let go": the payload must not outlive the watch.
    let failed = poll(watched, None).is_err();
    let [ended, let_go, again] = fds.map(|fd| !fd.revents().is_empty());
    if failed || !ended {
        pidfd_send_signal(payload, Signal::KILL).ok();
    }
    let forbidden = !failed && !ended && !let_go && again;
    while let Ok((pid, status)) = sys::reap_any() {
        if pid == PAYLOAD {
            let status = if forbidden { Signal::SYS.as_raw() } else { status };
            Note::Ended(status).send(notes);
            break;
        }
    }
    sys::exit_now(0)
}

#[cfg(test)]
mod tests {
    use super::Note;

    fn check(bytes: &[u8], expect: Option<Note>) {
        assert_eq!(Note::parse(bytes), expect);
    }

    #[test]
    fn notes() {
        check(b"", None);
        check(b"S", None);
        check(b"S\x09\0\0\0", Some(Note::Ended(9)));
        check(b"Rno\0", Some(Note::Refused("no".to_owned())));
        check(b"Rno\0S\0\x7d\0\0", Some(Note::Refused("no".to_owned())));
        check(b"x", None);
    }
}

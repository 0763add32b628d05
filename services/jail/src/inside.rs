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
    DumpableBehavior, Resource, Rlimit, Signal, getrlimit, pidfd_send_signal,
    set_dumpable_behavior, set_parent_process_death_signal, setrlimit, setsid,
};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities,
    clear_ambient_capability_set, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_capabilities, set_capabilities_secure_bits,
    set_no_new_privs,
};
use thiserror::Error;

use crate::fence::FenceError;
use crate::layers::{Layer, Offered};
use crate::limits::{CPU_HARD_EXTRA_SECS, CellLimits, STACK_BYTES};
use crate::mounts::{self, MountError, Tree};
use crate::namespaces::NamespaceError;
use crate::plan::{Identity, Plan};
use crate::profile::{EXEC_FD, Filters};
use crate::{elf, fence, namespaces, sys};

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
    #[error(transparent)]
    Namespaces(#[from] NamespaceError),
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
    /// It was killed for a named call of this number.
    Violated(u32),
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
            (b'V', call) => Some(Self::Violated(u32::from_le_bytes(call.try_into().ok()?))),
            _ => None,
        }
    }

    fn send(&self, pipe: &OwnedFd) {
        let mut bytes = match self {
            Self::Refused(text) => [b"R", text.as_bytes()].concat(),
            Self::Ended(status) => [b"S".as_slice(), &status.to_le_bytes()].concat(),
            Self::Violated(call) => [b"V".as_slice(), &call.to_le_bytes()].concat(),
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
    // Rust's handlers too: what has none in process 1, nobody in the cell can send it.
    sys::default_signals();
    rustix::stdio::dup2_stdin(inside.null).map_err(InsideError::Detach)?;
    setsid().map_err(InsideError::Detach)?;
    let (plan, off) = (inside.plan, inside.off);

    namespaces::enter_groups()?;
    mounts::make_private()?;
    let tree = match inside.tree.take() {
        Some(tree) => tree,
        None => Tree::detach(plan, off)?,
    };
    tree.enter(&plan.root, plan.limits.tmp_bytes, off)?;
    rustix::system::sethostname(b"cell").map_err(InsideError::Detach)?;

    let top = mounts::top(&plan.root, off);
    let program = Path::new(plan.argv.first().ok_or(InsideError::Argument)?);
    let path = &top.join(program.strip_prefix("/").unwrap_or(program));
    let interpreter = elf::interpreter(path).map_err(InsideError::Payload)?;
    let executable = executable(path)?;

    give_up_rights(plan.identity, off)?;
    if !off.contains(&Layer::Mdwe) {
        sys::refuse_writable_code().map_err(InsideError::Mdwe)?;
    }
    if !off.contains(&Layer::Landlock) {
        let abi = inside.offered.landlock_abi;
        fence::raise(abi, top, path, interpreter.as_deref(), plan.out_dir.is_some())?;
    }

    let seccomp = !off.contains(&Layer::Seccomp);
    let calls = seccomp.then(|| sys::listen(inside.filters.watch));
    let calls = calls.transpose().map_err(InsideError::Listen)?;
    match sys::fork_watched().map_err(InsideError::Fork)? {
        None => become_payload(&inside, &executable),
        Some((number, payload)) => {
            drop(executable);
            if let Some(calls) = &calls {
                let_it_start(&payload, &inside.leash, calls)?;
                sys::add_filter(inside.filters.init).map_err(InsideError::Filter)?;
            }
            wait_for_payload((&payload, number), &inside.leash, calls.as_ref(), &inside.notes)
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

fn give_up_rights(identity: Identity, off: &[Layer]) -> Result<(), InsideError> {
    if off.contains(&Layer::UserNamespace) {
        namespaces::become_late(identity)?;
    }
    if off.contains(&Layer::Capabilities) {
        keep_capabilities()?;
    } else {
        drop_capabilities()?;
    }
    // The two filters cannot be added without this.
    let needed = [Layer::Seccomp, Layer::Landlock, Layer::NoNewPrivs];
    if needed.iter().any(|layer| !off.contains(layer)) {
        set_no_new_privs(true).map_err(InsideError::NoNewPrivs)?;
    }
    let hidden = !off.contains(&Layer::Hidden);
    let behavior = if hidden { DumpableBehavior::NotDumpable } else { DumpableBehavior::Dumpable };
    set_dumpable_behavior(behavior).map_err(InsideError::Dumpable)
}

/// With that layer switched off: the payload gets every capability that process 1 has.
fn keep_capabilities() -> Result<(), InsideError> {
    let failed = InsideError::Capabilities;
    let held = capabilities(None).map_err(failed)?.permitted;
    let sets = CapabilitySets { effective: held, permitted: held, inheritable: held };
    set_capabilities(None, sets).map_err(failed)?;
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        if held.contains(one) {
            configure_capability_in_ambient_set(one, true).map_err(failed)?;
        }
    }
    Ok(())
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
    let environment = environment(inside.off);
    if !inside.off.contains(&Layer::Limits) {
        set_limits(&inside.plan.limits)?;
    }
    if !inside.off.contains(&Layer::Seccomp) {
        sys::add_filter(inside.filters.payload).map_err(InsideError::Filter)?;
    }
    Err(InsideError::Exec(sys::exec(executable.as_fd(), &argv, &environment)))
}

/// A constant: the launcher's own is the payload's only with that layer switched off.
fn environment(off: &[Layer]) -> Vec<CString> {
    if !off.contains(&Layer::Environment) {
        return vec![c"LC_ALL=C".to_owned()];
    }
    let entries = std::env::vars_os();
    let text = entries.map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat());
    text.filter_map(|entry| CString::new(entry).ok()).collect()
}

/// Lets the payload's first exec go on. Returns too when there will be none: who waits next sees why.
fn let_it_start(payload: &OwnedFd, leash: &OwnedFd, calls: &OwnedFd) -> Result<(), InsideError> {
    let mut fds = [
        PollFd::new(calls, PollFlags::IN),
        PollFd::new(payload, PollFlags::IN),
        PollFd::new(leash, PollFlags::empty()),
    ];
    poll(&mut fds, None).map_err(InsideError::Watch)?;
    if fds.map(|fd| !fd.revents().is_empty()) != [true, false, false] {
        return Ok(());
    }
    let first = sys::asked(calls.as_fd());
    let answered = first.and_then(|asked| match asked.is_exec() {
        true => sys::let_go_on(calls.as_fd(), asked),
        // Until its exec the payload is this program, which makes no other such call.
        false => Err(io::ErrorKind::InvalidData.into()),
    });
    match answered {
        // Killed while it waited.
        Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => Ok(()),
        other => other.map_err(InsideError::Listen),
    }
}

/// An init's whole duty: reap, and tell how the first child ended. Leaving ends the namespace and all in it.
///
/// The launcher ends a cell by letting go of the leash, and not by killing this process: the kernel adds up the time
/// and memory of a child only if its parent lives to reap it.
///
/// A named call, or a second exec, waits at `calls` for an answer that never comes: the filter that is added before
/// this allows reading the question and forbids answering. The payload dies while it waits, with all its threads. A
/// call that a signal interrupts before it was read has not happened, and counts all the same.
fn wait_for_payload(
    (payload, number): (&OwnedFd, i32),
    leash: &OwnedFd,
    calls: Option<&OwnedFd>,
    notes: &OwnedFd,
) -> ! {
    let mut fds = [
        PollFd::new(payload, PollFlags::IN),
        PollFd::new(leash, PollFlags::empty()),
        PollFd::new(calls.unwrap_or(leash), PollFlags::IN),
    ];
    let watched = if calls.is_some() { &mut fds[..] } else { &mut fds[..2] };
    // Any signal or error counts as "let go": the payload must not outlive the watch.
    let failed = poll(watched, None).is_err();
    let [ended, let_go, asks] = fds.map(|fd| !fd.revents().is_empty());
    let mut refused = None;
    if failed || !ended {
        if let Some(calls) = calls.filter(|_| asks && !failed && !let_go) {
            refused = Some(sys::asked(calls.as_fd()).map_or(u32::MAX, |asked| asked.call));
        }
        pidfd_send_signal(payload, Signal::KILL).ok();
    }
    while let Ok((pid, status)) = sys::reap_any() {
        if pid == number {
            let note = refused.map_or(Note::Ended(status), Note::Violated);
            note.send(notes);
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
        check(b"V\x29\0\0\0", Some(Note::Violated(41)));
        check(b"V\x29", None);
        check(b"x", None);
    }
}

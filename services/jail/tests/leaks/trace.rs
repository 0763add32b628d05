//! ptrace(2): one thread follows a program, and every process that it starts, from system call to system call.
//!
//! Promises: [`Traced`] waits for its own thread's children and nobody else's, so tests may run beside each other; what
//! it follows dies with it. Refuses to decide anything: who is killed, and when, is the caller's.

use std::ffi::c_int;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;

/// A process that is followed.
pub(crate) type Pid = i32;

/// What a followed process did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// Stands before a system call with this number.
    Calls(u64),
    /// Stands after one.
    Returned,
    /// Has started this process or thread, which is followed too.
    Started(Pid),
    /// Stands before this signal's delivery.
    Signalled(c_int),
    /// Stands for another reason; nothing is to be done but to go on.
    Stands,
    /// Is gone, with this wait status.
    Gone(c_int),
}

/// Which of the processes that it starts are followed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Follow {
    /// Its threads only.
    Threads,
    /// Every process.
    All,
}

fn ask(request: libc::c_uint, pid: Pid, data: usize) -> io::Result<()> {
    // SAFETY: none of the requests below reads or writes this process's memory, except the two that say so.
    let done = unsafe { libc::ptrace(request, pid, ptr::null_mut::<u8>(), data) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Starts a program that stands at its first instruction, followed by this thread. Its end is an event like any other.
pub(crate) fn start(command: &mut Command, follow: Follow) -> io::Result<Pid> {
    // SAFETY: ptrace(2) is a bare system call, and may be called between fork and exec.
    let begun = unsafe { command.pre_exec(|| ask(libc::PTRACE_TRACEME, 0, 0)) };
    let pid = Pid::try_from(begun.spawn()?.id()).unwrap();
    assert_eq!(wait(Some(pid), true)?, Some((pid, Event::Signalled(libc::SIGTRAP))));
    let followed = match follow {
        Follow::Threads => libc::PTRACE_O_TRACECLONE,
        Follow::All => {
            libc::PTRACE_O_TRACEFORK | libc::PTRACE_O_TRACEVFORK | libc::PTRACE_O_TRACECLONE
        }
    };
    // With EXITKILL nothing outlives a test that panics.
    let options =
        libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACEEXEC | libc::PTRACE_O_EXITKILL | followed;
    ask(libc::PTRACE_SETOPTIONS, pid, usize::try_from(options).unwrap())?;
    Ok(pid)
}

/// Lets a process go on to its next system call, or run freely; a process that is gone meanwhile is gone.
pub(crate) fn go_on(pid: Pid, to_next_call: bool, signal: c_int) {
    let request = if to_next_call { libc::PTRACE_SYSCALL } else { libc::PTRACE_CONT };
    match ask(request, pid, usize::try_from(signal).unwrap()) {
        Err(error) if error.raw_os_error() != Some(libc::ESRCH) => panic!("{pid}: {error}"),
        _ => {}
    }
}

/// Kills a process, wherever it stands.
pub(crate) fn kill(pid: Pid) {
    // SAFETY: no pointer.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// The next event of any process that this thread follows; `None` when there is none yet and `block` is false.
///
/// # Errors
/// ECHILD: nobody is left.
pub(crate) fn wait(pid: Option<Pid>, block: bool) -> io::Result<Option<(Pid, Event)>> {
    let mut status: c_int = 0;
    let flags = libc::__WALL | libc::__WNOTHREAD | if block { 0 } else { libc::WNOHANG };
    // SAFETY: the pointer is to a local that outlives the call.
    let found = unsafe { libc::waitpid(pid.unwrap_or(-1), &raw mut status, flags) };
    match found {
        0 => Ok(None),
        1.. => Ok(Some((found, event(found, status)))),
        _ => Err(io::Error::last_os_error()),
    }
}

fn event(pid: Pid, status: c_int) -> Event {
    if !libc::WIFSTOPPED(status) {
        return Event::Gone(status);
    }
    match (libc::WSTOPSIG(status), status >> 16) {
        (signal, 0) if signal == libc::SIGTRAP | 0x80 => call(pid),
        (signal, 0) => Event::Signalled(signal),
        (_, libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE) => {
            let mut child: libc::c_ulong = 0;
            let (none, to) = (ptr::null_mut::<u8>(), &raw mut child);
            // SAFETY: the request writes one unsigned long to a local that outlives the call.
            unsafe { libc::ptrace(libc::PTRACE_GETEVENTMSG, pid, none, to) };
            Event::Started(Pid::try_from(child).unwrap())
        }
        _ => Event::Stands,
    }
}

fn call(pid: Pid) -> Event {
    // SAFETY: the structure is plain integers, for which all zeroes is a value.
    let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::ptrace_syscall_info>();
    // SAFETY: the request writes at most `size` bytes to a local of that size.
    unsafe { libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, pid, size, &raw mut info) };
    if info.op == libc::PTRACE_SYSCALL_INFO_ENTRY {
        // SAFETY: `op` says that this is the part of the union that the kernel filled.
        Event::Calls(unsafe { info.u.entry.nr })
    } else {
        Event::Returned
    }
}

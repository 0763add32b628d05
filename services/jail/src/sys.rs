//! Every `unsafe` line of the product, each behind a safe function.
//!
//! Promises: no function here keeps a pointer after it returns, and none may be called from a process with more than
//! one thread (`fork`) unless its comment says so. Refuses to hold any policy: what to forbid is decided elsewhere.

use std::ffi::{CString, c_char, c_int, c_long};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::ptr;

use libc::sock_filter;
use rustix::process::Pid;
use rustix::thread::UnshareFlags;

/// `MOUNT_ATTR_*`, `struct mount_attr`: linux/mount.h. rustix 1.1 has no mount_setattr(2).
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// `struct sock_fprog`: linux/filter.h.
#[repr(C)]
struct SockFprog {
    len: u16,
    filter: *const sock_filter,
}

/// linux/prctl.h since 6.3; the libc crate does not have them on every target.
const PR_SET_MDWE: c_int = 65;
const PR_GET_MDWE: c_int = 66;
const PR_MDWE_REFUSE_EXEC_GAIN: c_int = 1;
/// linux/seccomp.h: `_IOWR('!', 0, struct seccomp_notif)` and `_IOWR('!', 1, struct seccomp_notif_resp)`.
const NOTIF_RECV: u32 = 0xc050_2100;
const NOTIF_SEND: u32 = 0xc018_2101;
/// linux/sched.h; the libc crate's own constant is cut to 32 bits.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// linux/landlock.h.
const LANDLOCK_CREATE_RULESET_VERSION: c_int = 1;

fn check(result: c_long) -> io::Result<c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// What wait4(2) told about a child that is gone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reaped {
    pub(crate) status: ExitStatus,
    /// User and system time of the child and of all its own reaped children.
    pub(crate) cpu_ms: u64,
    /// The largest resident set among them.
    pub(crate) max_rss_kib: u64,
}

/// Forks; `None` in the child.
///
/// # Errors
/// What fork(2) says. The caller must be single-threaded, which the launcher is by construction.
pub(crate) fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: the launcher never starts a thread, so the child inherits no lock that another thread holds.
    let pid = check(unsafe { c_long::from(libc::fork()) })?;
    Ok(c_int::try_from(pid).ok().and_then(Pid::from_raw))
}

/// As [`fork`], but the child is born in a version 2 control group: it never was in another, and nobody moves.
///
/// # Errors
/// What clone3(2) says. The caller must be single-threaded.
pub(crate) fn fork_into(group: BorrowedFd<'_>) -> io::Result<Option<Pid>> {
    // SAFETY: the structure is plain integers, for which all zeroes is a value: no stack of its own, as in fork.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = CLONE_INTO_CGROUP;
    args.exit_signal = u64::try_from(libc::SIGCHLD).unwrap_or_default();
    args.cgroup = u64::try_from(group.as_raw_fd()).unwrap_or_default();
    let (number, size) = (libc::SYS_clone3, size_of::<libc::clone_args>());
    // SAFETY: `args` has the kernel's layout and `size` is its size; the memory is copied, and no other thread holds a
    // lock in it. What libc's own fork does besides (handlers, the cached thread id) nothing here depends on.
    let pid = check(unsafe { libc::syscall(number, &raw const args, size) })?;
    Ok(i32::try_from(pid).ok().and_then(Pid::from_raw))
}

/// As [`fork`], with a descriptor of the child that refers to it and to nothing else, ever. The flags are none of
/// libc's: the filters that this process has set for its child ask about every other way to make a process, and would
/// ask this process about itself (`unwatched` in the profiles).
///
/// # Errors
/// What clone(2) says. The caller must be single-threaded.
pub(crate) fn fork_watched() -> io::Result<Option<(c_int, OwnedFd)>> {
    let flags = c_long::from(libc::CLONE_PIDFD | libc::SIGCHLD);
    let (stack, unused, mut fd) = (ptr::null::<u8>(), ptr::null::<u8>(), -1);
    // SAFETY: without CLONE_VM and without a stack it is fork(2), and no other thread holds a lock in the copied memory.
    // The kernel writes the descriptor to the local, the third argument on every processor. What libc's own fork does
    // besides (handlers, the cached thread id) nothing here depends on.
    let pid = check(unsafe {
        libc::syscall(libc::SYS_clone, flags, stack, &raw mut fd, unused, unused)
    })?;
    let pid = c_int::try_from(pid).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: in the parent, the kernel has just made this descriptor for us, and nobody else knows it.
    Ok((pid != 0).then(|| (pid, unsafe { OwnedFd::from_raw_fd(fd) })))
}

/// Leaves at once: no destructors, no atexit handlers, no buffered output of the parent's.
pub(crate) fn exit_now(code: u8) -> ! {
    // SAFETY: _exit takes no pointer and does not return.
    unsafe { libc::_exit(c_int::from(code)) }
}

/// Waits for one child.
///
/// # Errors
/// What wait4(2) says, except EINTR, which is retried.
pub(crate) fn reap(pid: Pid) -> io::Result<Reaped> {
    let mut status: c_int = 0;
    // SAFETY: rusage is plain integers, for which all zeroes is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to locals that outlive the call.
        let done =
            unsafe { libc::wait4(pid.as_raw_nonzero().get(), &raw mut status, 0, &raw mut usage) };
        match check(c_long::from(done)) {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let ms = |time: libc::timeval| -> u64 {
        let secs = u64::try_from(time.tv_sec).unwrap_or(0);
        secs.saturating_mul(1000).saturating_add(u64::try_from(time.tv_usec).unwrap_or(0) / 1000)
    };
    Ok(Reaped {
        status: ExitStatus::from_raw(status),
        cpu_ms: ms(usage.ru_utime).saturating_add(ms(usage.ru_stime)),
        max_rss_kib: u64::try_from(usage.ru_maxrss).unwrap_or(0),
    })
}

/// Waits for any child, as an init does.
///
/// # Errors
/// What wait4(2) says, except EINTR, which is retried.
pub(crate) fn reap_any() -> io::Result<(c_int, c_int)> {
    let mut status: c_int = 0;
    loop {
        // SAFETY: the status pointer is to a local that outlives the call; a null rusage is allowed.
        let pid = unsafe { libc::wait4(-1, &raw mut status, 0, ptr::null_mut()) };
        match check(c_long::from(pid)) {
            Ok(_) => return Ok((pid, status)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Marks every descriptor from `first` up close-on-exec, so that none can reach the payload.
///
/// # Errors
/// What close_range(2) says.
pub(crate) fn close_on_exec_from(first: u32) -> io::Result<()> {
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: no pointer, and no descriptor is closed before exec.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) }).map(|_| ())
}

/// Moves this process into new namespaces.
///
/// # Errors
/// What unshare(2) says.
pub(crate) fn unshare(namespaces: UnshareFlags) -> io::Result<()> {
    debug_assert!(!namespaces.contains(UnshareFlags::FILES));
    // SAFETY: unsafe only for CLONE_FILES in a process with threads; it is neither.
    Ok(unsafe { rustix::thread::unshare_unsafe(namespaces) }?)
}

/// Restricts a detached mount before anybody can reach it, and makes it private.
///
/// # Errors
/// What mount_setattr(2) says.
pub(crate) fn restrict_mount(mount: BorrowedFd<'_>, attributes: u32) -> io::Result<()> {
    let attr = MountAttr {
        attr_set: attributes.into(),
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    let (number, size) = (libc::SYS_mount_setattr, size_of::<MountAttr>());
    let (fd, path, flags) = (mount.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH);
    // SAFETY: `attr` has the kernel's layout, `size` is its size, and both pointers outlive the call.
    check(unsafe { libc::syscall(number, fd, path, flags, &raw const attr, size) }).map(|_| ())
}

/// The Landlock ABI of the running kernel; 0 when there is none.
pub(crate) fn landlock_abi() -> u32 {
    let (number, flag) = (libc::SYS_landlock_create_ruleset, LANDLOCK_CREATE_RULESET_VERSION);
    // SAFETY: with the VERSION flag the kernel wants a null pointer and size 0, and reads nothing.
    let abi = unsafe { libc::syscall(number, ptr::null::<u8>(), 0_usize, flag) };
    u32::try_from(abi).unwrap_or(0)
}

/// Whether the kernel can end a whole process for one refused call (SECCOMP_RET_KILL_PROCESS).
pub(crate) fn seccomp_can_kill() -> bool {
    let (operation, action) = (libc::SECCOMP_GET_ACTION_AVAIL, libc::SECCOMP_RET_KILL_PROCESS);
    // SAFETY: the pointer is to a local u32, which the kernel only reads.
    unsafe { libc::syscall(libc::SYS_seccomp, operation, 0, &raw const action) == 0 }
}

/// Adds one filter, for this process and its later children.
///
/// # Errors
/// What seccomp(2) says; EINVAL for a program longer than a BPF program can be.
pub(crate) fn add_filter(program: &[sock_filter]) -> io::Result<()> {
    filter(program, 0).map(|_| ())
}

/// From now on, here and in every later child: each call that `program` asks about waits until somebody answers at the
/// returned descriptor, which is close-on-exec. A stricter answer of another filter comes first.
///
/// # Errors
/// What seccomp(2) says; EBUSY when whoever started us listens already.
pub(crate) fn listen(program: &[sock_filter]) -> io::Result<OwnedFd> {
    let fd = filter(program, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)?;
    let fd = c_int::try_from(fd).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn filter(program: &[sock_filter], flags: libc::c_ulong) -> io::Result<c_long> {
    let len = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let fprog = SockFprog { len, filter: program.as_ptr() };
    let operation = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: `fprog` points to `len` instructions, and the kernel copies them before it returns.
    check(unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, &raw const fprog) })
}

/// A call that waits at a listener.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    id: u64,
    /// Its number.
    pub(crate) call: u32,
}

impl Asked {
    /// Whether it is the call that [`exec`] makes.
    pub(crate) fn is_exec(self) -> bool {
        c_long::from(self.call) == libc::SYS_execveat
    }
}

/// Reads which call waits at the listener. Does not block when poll(2) said that one waits.
///
/// # Errors
/// What ioctl(2) says; ENOENT when who waited is gone, or was interrupted, so that its call never happened.
pub(crate) fn asked(listener: BorrowedFd<'_>) -> io::Result<Asked> {
    // SAFETY: the request is plain integers, for which all zeroes is a value, and the one that the kernel wants.
    let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a local of the size that the request's number names.
    let got = unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_RECV as _, &raw mut asked) };
    check(c_long::from(got))?;
    Ok(Asked { id: asked.id, call: asked.data.nr.cast_unsigned() })
}

/// Lets the one call go on. Its arguments are its own still: the kernel reads them again.
///
/// # Errors
/// What ioctl(2) says; ENOENT when who waited is gone.
pub(crate) fn let_go_on(listener: BorrowedFd<'_>, asked: Asked) -> io::Result<()> {
    let flags = u32::try_from(libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE).unwrap_or_default();
    let answer = libc::seccomp_notif_resp { id: asked.id, val: 0, error: 0, flags };
    // SAFETY: the pointer is to a local of the size that the request's number names, which the kernel only reads.
    let sent = unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_SEND as _, &raw const answer) };
    check(c_long::from(sent)).map(|_| ())
}

/// Whether the kernel can refuse memory that is writable and executable (6.3 and later).
pub(crate) fn has_mdwe() -> bool {
    // SAFETY: no pointer; PR_GET_MDWE only reads.
    unsafe { libc::prctl(PR_GET_MDWE, 0, 0, 0, 0) >= 0 }
}

/// From now on, and after exec: no page may become executable that was ever writable.
///
/// # Errors
/// What prctl(2) says.
pub(crate) fn refuse_writable_code() -> io::Result<()> {
    // SAFETY: no pointer.
    let result = unsafe { libc::prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) };
    check(c_long::from(result)).map(|_| ())
}

/// Gives every signal its default action and unblocks all of them: exec keeps "ignored" (Rust ignores SIGPIPE) and
/// the mask.
pub(crate) fn default_signals() {
    for signal in 1..=64 {
        // SAFETY: no handler of ours exists, and SIG_DFL is valid for every signal (an error is harmless).
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: sigset_t is plain integers, for which all zeroes is the empty set on Linux.
    let empty: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is a local, and a null old set is allowed.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const empty, ptr::null_mut()) };
}

/// Becomes the program behind `executable`; returns only when that failed.
pub(crate) fn exec(
    executable: BorrowedFd<'_>,
    args: &[CString],
    environment: &[CString],
) -> io::Error {
    let pointers = |list: &[CString]| -> Vec<*const c_char> {
        list.iter().map(|item| item.as_ptr()).chain([ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(args), pointers(environment));
    let (number, fd, path) = (libc::SYS_execveat, executable.as_raw_fd(), c"".as_ptr());
    let flags = libc::AT_EMPTY_PATH;
    // SAFETY: both arrays end in null and hold C strings that outlive the call.
    unsafe { libc::syscall(number, fd, path, argv.as_ptr(), envp.as_ptr(), flags) };
    io::Error::last_os_error()
}

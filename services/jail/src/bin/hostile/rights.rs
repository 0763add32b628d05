//! More rights: users, capabilities, namespaces, mounts, and the calls that only an administrator may make. Those that
//! would change the host are made with arguments that the kernel refuses after it has looked at the right.

use std::ffi::c_long;
use std::io;
use std::os::fd::AsRawFd;

use crate::argument;
use crate::calls::{c_text, call, descriptor, done, errno, pointer, reach, text};

const HERE: c_long = libc::AT_FDCWD as c_long;

pub(crate) fn run(attack: &str, args: &[&str]) -> Option<io::Result<()>> {
    let first = || argument(args, 0);
    Some(match attack {
        "unshare_user" => unshare(libc::CLONE_NEWUSER),
        "unshare_mount" => unshare(libc::CLONE_NEWNS),
        "unshare_network" => unshare(libc::CLONE_NEWNET),
        "unshare_pid" => unshare(libc::CLONE_NEWPID),
        "mount" => first().and_then(mount),
        "mount_new" => first().and_then(mount_new),
        "mount_proc" => first().and_then(mount_proc),
        "remount" => first().and_then(remount),
        "unmount" => first().and_then(unmount),
        "clone_tree" => descriptor(libc::SYS_open_tree, [HERE, text(c"/"), 1]).map(|_| ()),
        "pivot" => first().and_then(pivot),
        "chroot" => first().and_then(|path| done(libc::SYS_chroot, [text(&c_text(path)?)])),
        "setuid" => done(libc::SYS_setuid, [0]),
        "setgid" => done(libc::SYS_setgid, [0]),
        "setgroups" => done(libc::SYS_setgroups, [1, pointer(&0_u32)]),
        "capset" => capset(),
        "ambient" => done(libc::SYS_prctl, [libc::PR_CAP_AMBIENT.into(), 2, 21, 0, 0]),
        "dumpable" => done(libc::SYS_prctl, [libc::PR_SET_DUMPABLE.into(), 1, 0, 0, 0]),
        // KEYCTL_GET_KEYRING_ID of the user's keyring, which all processes of a user share.
        "keyctl" => done(libc::SYS_keyctl, [0, -4, 1]),
        "add_key" => done(libc::SYS_add_key, [text(c"user"), text(c"x"), text(c"x"), 1, -2]),
        // UFFD_USER_MODE_ONLY
        "userfaultfd" => descriptor(libc::SYS_userfaultfd, [1]).map(|_| ()),
        "io_uring" => io_uring(),
        "bpf" => bpf(),
        "perf" => perf(),
        // FAN_CLASS_CONTENT: may hold up other processes' opens.
        "fanotify" => descriptor(libc::SYS_fanotify_init, [4, 0]).map(|_| ()),
        "watch_init" => descriptor(libc::SYS_inotify_init1, [0]).map(|_| ()),
        "personality" => done(libc::SYS_personality, [0x0040_0000]),
        // As it is now, with no time zone: a host keeps none.
        "clock" => done(libc::SYS_settimeofday, [0, pointer(&[0_i32; 2])]),
        // Of its own machine, as every cell has a name to itself.
        "host_name" => done(libc::SYS_sethostname, [text(c"x"), 1]),
        "ports" => ports(),
        // SYSLOG_ACTION_SIZE_UNREAD
        "kernel_log" => done(libc::SYS_syslog, [9, 0, 0]),
        "kexec" => reach(libc::SYS_kexec_load, [0, 0, 0, 0x0fff], libc::EINVAL),
        "module" => reach(libc::SYS_init_module, [0, 0, text(c"")], libc::ENOEXEC),
        "module_remove" => {
            reach(libc::SYS_delete_module, [text(c"hotcell-none"), 0x800], libc::ENOENT)
        }
        "swap" => reach(libc::SYS_swapon, [text(c"/hotcell-none"), 0], libc::ENOENT),
        "accounting" => reach(libc::SYS_acct, [text(c"/hotcell-none")], libc::ENOENT),
        "reboot" => reach(libc::SYS_reboot, [0, 0, 0, 0], libc::EINVAL),
        "terminal" => terminal(),
        _ => return None,
    })
}

fn unshare(namespace: i32) -> io::Result<()> {
    done(libc::SYS_unshare, [namespace.into()])
}

fn mount(place: &str) -> io::Result<()> {
    let (place, kind) = (c_text(place)?, c"tmpfs");
    done(libc::SYS_mount, [text(kind), text(&place), text(kind), 0, 0])?;
    done(libc::SYS_umount2, [text(&place), 0])
}

/// A view of all processes.
fn mount_proc(place: &str) -> io::Result<()> {
    let (place, kind) = (c_text(place)?, c"proc");
    done(libc::SYS_mount, [text(kind), text(&place), text(kind), 0, 0])?;
    done(libc::SYS_umount2, [text(&place), 0])
}

/// The same by the newer calls, which filters of old do not know.
fn mount_new(place: &str) -> io::Result<()> {
    let place = c_text(place)?;
    let context = descriptor(libc::SYS_fsopen, [text(c"tmpfs"), 0])?;
    let fd = context.as_raw_fd().into();
    // FSCONFIG_CMD_CREATE
    done(libc::SYS_fsconfig, [fd, 6, 0, 0, 0])?;
    let mount = descriptor(libc::SYS_fsmount, [fd, 0, 0])?;
    // MOVE_MOUNT_F_EMPTY_PATH
    let (from, flags) = (mount.as_raw_fd().into(), 4);
    done(libc::SYS_move_mount, [from, text(c""), HERE, text(&place), flags])?;
    // It would be busy.
    drop(mount);
    done(libc::SYS_umount2, [text(&place), 0])
}

/// Takes "no programs" off a mount, and back.
fn remount(place: &str) -> io::Result<()> {
    let place = c_text(place)?;
    let flags = libc::MS_REMOUNT | libc::MS_BIND;
    let flags = c_long::try_from(flags).unwrap_or(0);
    done(libc::SYS_mount, [0, text(&place), 0, flags, 0])
}

fn unmount(place: &str) -> io::Result<()> {
    let place = c_text(place)?;
    done(libc::SYS_umount2, [text(&place), libc::MNT_DETACH.into()])
}

fn pivot(folder: &str) -> io::Result<()> {
    let folder = c_text(folder)?;
    done(libc::SYS_pivot_root, [text(&folder), text(&folder)])
}

/// All capabilities, by linux/capability.h version 3.
fn capset() -> io::Result<()> {
    let (header, all) = ([0x2008_0522_u32, 0], [u32::MAX, 0, 0, 0x1, 0, 0]);
    // CAP_SYS_ADMIN alone is enough.
    let one = 1_u32 << 21;
    let wanted = [one, one, 0, 0, 0, 0];
    done(libc::SYS_capset, [pointer(&header), pointer(&all)])
        .or_else(|_| done(libc::SYS_capset, [pointer(&header), pointer(&wanted)]))
}

fn io_uring() -> io::Result<()> {
    // The kernel writes into struct io_uring_params.
    let mut parameters = [0_u64; 32];
    let at = parameters.as_mut_ptr() as c_long;
    descriptor(libc::SYS_io_uring_setup, [1, at]).map(|_| ())
}

/// A program in the kernel: BPF_PROG_LOAD of `return 0` as a probe of the kernel.
fn bpf() -> io::Result<()> {
    let code: [u64; 2] = [0xb7, 0x95];
    let (license, at) = (c"GPL", pointer(&code));
    let mut attributes = [0_u64; 16];
    let kind_and_count = 2_u64 | (2 << 32);
    for (slot, value) in attributes.iter_mut().zip([
        kind_and_count,
        at.cast_unsigned(),
        text(license).cast_unsigned(),
    ]) {
        *slot = value;
    }
    descriptor(libc::SYS_bpf, [5, pointer(&attributes), 128]).map(|_| ())
}

/// Counts what all of processor 0 does.
fn perf() -> io::Result<()> {
    let mut attributes = [0_u32; 32];
    // PERF_TYPE_SOFTWARE, size 128, PERF_COUNT_SW_CPU_CLOCK.
    for (slot, value) in attributes.iter_mut().zip([1, 128]) {
        *slot = value;
    }
    descriptor(libc::SYS_perf_event_open, [pointer(&attributes), -1, 0, -1, 0]).map(|_| ())
}

/// The processor's own ports: 0x80 is the one that does nothing.
#[cfg(target_arch = "x86_64")]
fn ports() -> io::Result<()> {
    done(libc::SYS_ioperm, [0x80, 1, 1])
}

/// Not on this processor.
#[cfg(not(target_arch = "x86_64"))]
fn ports() -> io::Result<()> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

/// Types into the terminal of whoever started the worker.
fn terminal() -> io::Result<()> {
    let tiocsti = c_long::try_from(libc::TIOCSTI).unwrap_or(0);
    for fd in 0..3 {
        if call(libc::SYS_ioctl, [fd, tiocsti, text(c"#")]).is_ok() {
            return Ok(());
        }
    }
    Err(io::Error::from_raw_os_error(errno()))
}

//! Other processes: their memory, descriptors, names, signals, shared memory and queues. No signal but 0 is sent.

use std::ffi::c_long;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::Duration;

use crate::calls::{c_text, call, descriptor, done, pointer, text};
use crate::{argument, number, say};

pub(crate) fn run(attack: &str, args: &[&str]) -> Option<io::Result<()>> {
    Some(match attack {
        "fork" => fork(),
        "daemon" => daemon(),
        "kill" => number(args, 0).and_then(|pid: c_long| done(libc::SYS_kill, [pid, 0])),
        "tgkill" => number(args, 0).and_then(|pid: c_long| done(libc::SYS_tgkill, [pid, pid, 0])),
        "pidfd" => number(args, 0).and_then(|pid| {
            let process = pidfd(pid)?;
            done(libc::SYS_pidfd_send_signal, [process.as_raw_fd().into(), 0, 0, 0])
        }),
        "ptrace" => number(args, 0).and_then(seize),
        "ptrace_init" => seize_init(),
        "memory" => number(args, 0).and_then(|pid| memory(pid, number(args, 1)?)),
        "memory_write" => number(args, 0).and_then(|pid| memory_write(pid, number(args, 1)?)),
        "steal" => number(args, 0).and_then(|pid| steal(pid, number(args, 1)?)),
        "join" => number(args, 0).and_then(join),
        "shared_memory" => number(args, 0).and_then(shared_memory),
        "queue" => argument(args, 0).and_then(queue),
        "real_time" => {
            // SCHED_FIFO, priority 1.
            done(libc::SYS_sched_setscheduler, [0, libc::SCHED_FIFO.into(), pointer(&1_i32)])
        }
        "nice" => done(libc::SYS_setpriority, [0, 0, -5]),
        "pin" => done(libc::SYS_sched_setaffinity, [0, 8, pointer(&1_u64)]),
        _ => return None,
    })
}

fn fork() -> io::Result<()> {
    if call(libc::SYS_clone, [libc::SIGCHLD.into()])? == 0 {
        std::process::exit(0);
    }
    Ok(())
}

/// Leaves a process that has let go of everything; it ends by itself after some seconds.
fn daemon() -> io::Result<()> {
    if call(libc::SYS_clone, [libc::SIGCHLD.into()])? > 0 {
        return Ok(());
    }
    for fd in 0..3 {
        done(libc::SYS_close, [fd]).ok();
    }
    done(libc::SYS_setsid, []).ok();
    if call(libc::SYS_clone, [libc::SIGCHLD.into()]).unwrap_or(1) == 0 {
        thread::sleep(Duration::from_secs(10));
    }
    std::process::exit(0)
}

fn pidfd(pid: c_long) -> io::Result<OwnedFd> {
    descriptor(libc::SYS_pidfd_open, [pid, 0])
}

/// Traces without stopping; this program's end lets go.
fn seize(pid: c_long) -> io::Result<()> {
    done(libc::SYS_ptrace, [libc::PTRACE_SEIZE.into(), pid, 0, 0])
}

/// The parent is process 1 of the cell, which has the same user and starts before the payload.
fn seize_init() -> io::Result<()> {
    // 2 is the payload's own number in a cell with a process namespace: getppid ends a cell, and must not hide ptrace.
    let init = if std::process::id() == 2 { 1 } else { call(libc::SYS_getppid, [])? };
    seize(init)
}

/// What is at an address of another process.
fn memory(pid: c_long, address: usize) -> io::Result<()> {
    let mut bytes = [0_u8; 64];
    let here = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let there = libc::iovec { iov_base: address as *mut _, iov_len: bytes.len() };
    done(libc::SYS_process_vm_readv, [pid, pointer(&here), 1, pointer(&there), 1, 0])?;
    say(&String::from_utf8_lossy(&bytes));
    Ok(())
}

/// Writes one byte of another process: into memory that it keeps for this.
fn memory_write(pid: c_long, address: usize) -> io::Result<()> {
    let byte = [0_u8; 1];
    let here = libc::iovec { iov_base: byte.as_ptr().cast_mut().cast(), iov_len: 1 };
    let there = libc::iovec { iov_base: address as *mut _, iov_len: 1 };
    done(libc::SYS_process_vm_writev, [pid, pointer(&here), 1, pointer(&there), 1, 0])
}

/// A descriptor of another process, and what is behind it.
fn steal(pid: c_long, fd: c_long) -> io::Result<()> {
    let process = pidfd(pid)?;
    let stolen = descriptor(libc::SYS_pidfd_getfd, [process.as_raw_fd().into(), fd, 0])?;
    let mut bytes = [0_u8; 64];
    let to = bytes.as_mut_ptr() as c_long;
    done(libc::SYS_pread64, [stolen.as_raw_fd().into(), to, 64, 0])?;
    say(&String::from_utf8_lossy(&bytes));
    Ok(())
}

/// Enters the network of another process.
fn join(pid: c_long) -> io::Result<()> {
    let process = pidfd(pid)?;
    done(libc::SYS_setns, [process.as_raw_fd().into(), libc::CLONE_NEWNET.into()])
}

fn shared_memory(id: c_long) -> io::Result<()> {
    let address = call(libc::SYS_shmat, [id, 0, libc::SHM_RDONLY.into()])?;
    // SAFETY: the segment is a page, and stays attached until this program ends.
    let bytes = unsafe { std::slice::from_raw_parts(address as *const u8, 64) };
    say(&String::from_utf8_lossy(bytes));
    Ok(())
}

/// The first message of a queue of another process; the queue keeps a copy by being read without removing it: it is
/// put back.
fn queue(name: &str) -> io::Result<()> {
    let name = c_text(name)?;
    let queue = descriptor(libc::SYS_mq_open, [text(&name), libc::O_RDWR.into(), 0, 0])?;
    let mut bytes = [0_u8; 8192];
    let (fd, to) = (c_long::from(queue.as_raw_fd()), bytes.as_mut_ptr() as c_long);
    let len = call(libc::SYS_mq_timedreceive, [fd, to, 8192, 0, 0])?;
    done(libc::SYS_mq_timedsend, [fd, to, len, 0, 0])?;
    let read = bytes.get(..usize::try_from(len).unwrap_or(0)).unwrap_or_default();
    say(&String::from_utf8_lossy(read));
    Ok(())
}

//! The hostile program of the tests: it does what an attacker would do who has taken over ffmpeg.
//!
//! Usage: `hotcell-cell-probe ATTACK [ARGUMENT]`. Promises: exit code 0 when the attack worked, 1 when the kernel
//! refused it (the errno is printed); a cell may also kill it. Refuses to do lasting harm: each attack only opens
//! the door, so that every one of them can be tried outside a cell, where it must work.

use std::ffi::{CString, c_long};
use std::fs::{self, File, OpenOptions};
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let attack = args.first().map_or("", String::as_str);
    let argument = args.get(1).map_or("", String::as_str);
    match run(attack, argument) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("refused errno={}", error.raw_os_error().unwrap_or(0)));
            ExitCode::FAILURE
        }
    }
}

fn say(text: &str) {
    // A probe without a reader still has its exit code.
    drop(writeln!(io::stdout(), "{text}"));
}

fn run(attack: &str, argument: &str) -> io::Result<()> {
    match attack {
        "exit" => std::process::exit(argument.parse().map_err(io::Error::other)?),
        "abort" => std::process::abort(),
        "hold" => hold(),
        "spin" => loop {
            black_box(0);
        },
        "flood" => flood(),
        "litter" => litter(argument),
        "ghosts" => ghosts(argument),
        "replace" => replace(argument),
        "nameless" => nameless(argument),
        "core_limit" => core_limit(),
        "read" => read(argument),
        "create" => create(argument),
        "list" => list(argument),
        "environment" => environment(argument),
        "descriptors" => descriptors(),
        "processes" => processes(),
        "threads" => threads(number(argument)?),
        "allocate" => allocate(number(argument)?),
        "fill" => fill(argument),
        _ => system_call(attack, argument),
    }
}

fn number(text: &str) -> io::Result<usize> {
    text.parse().map_err(io::Error::other)
}

/// One system call, whatever it is.
fn call(nr: c_long, args: [c_long; 5]) -> io::Result<c_long> {
    let [a, b, c, d, e] = args;
    // SAFETY: every pointer among the arguments below is to a live value of the size that the call wants, or null.
    let result = unsafe { libc::syscall(nr, a, b, c, d, e, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn pointer<T>(value: &T) -> c_long {
    std::ptr::from_ref(value) as c_long
}

fn system_call(attack: &str, argument: &str) -> io::Result<()> {
    let path = CString::new(argument)?;
    let text = path.as_ptr() as c_long;
    let int = c_long::from;
    // Room for any structure that a call reads or writes.
    let zeroes = [0_u64; 32];
    let memory = pointer(&zeroes);
    let (stream, raw) = (int(libc::SOCK_STREAM), int(libc::SOCK_RAW));
    let here = int(libc::AT_FDCWD);
    let (nr, args) = match attack {
        "inet" => (libc::SYS_socket, [int(libc::AF_INET), stream, 0, 0, 0]),
        "inet6" => (libc::SYS_socket, [int(libc::AF_INET6), stream, 0, 0, 0]),
        "unix" => (libc::SYS_socket, [int(libc::AF_UNIX), stream, 0, 0, 0]),
        "vsock" => (libc::SYS_socket, [int(libc::AF_VSOCK), stream, 0, 0, 0]),
        "netlink" => (libc::SYS_socket, [int(libc::AF_NETLINK), raw, 0, 0, 0]),
        "packet" => (libc::SYS_socket, [int(libc::AF_PACKET), raw, 0, 0, 0]),
        "raw" => return any_call(argument),
        "exec" => return exec(argument),
        "exec_again" => return exec_again(argument),
        "fork" => return fork(),
        "kill" => (libc::SYS_kill, [int(number(argument)?.try_into().unwrap_or(1)), 0, 0, 0, 0]),
        "ptrace" => (libc::SYS_ptrace, [libc::PTRACE_TRACEME.into(), 0, 0, 0, 0]),
        "mount" => {
            let kind = c"tmpfs".as_ptr() as c_long;
            call(libc::SYS_mount, [kind, text, kind, 0, 0])?;
            (libc::SYS_umount2, [text, 0, 0, 0, 0])
        }
        // BPF_MAP_CREATE of an array with one entry.
        "bpf" => {
            let attributes: [u32; 32] =
                std::array::from_fn(|at| [2, 4, 4, 1].get(at).copied().unwrap_or(0));
            (libc::SYS_bpf, [0, pointer(&attributes), 128, 0, 0])
        }
        "unshare" => (libc::SYS_unshare, [int(libc::CLONE_NEWUSER), 0, 0, 0, 0]),
        // KEYCTL_GET_KEYRING_ID of the session keyring, made if absent.
        "keyctl" => (libc::SYS_keyctl, [0, -3, 1, 0, 0]),
        "userfaultfd" => (libc::SYS_userfaultfd, [int(libc::O_CLOEXEC), 0, 0, 0, 0]),
        "io_uring" => (libc::SYS_io_uring_setup, [1, memory, 0, 0, 0]),
        "memfd" => (libc::SYS_memfd_create, [c"x".as_ptr() as c_long, 0, 0, 0, 0]),
        "perf" => (libc::SYS_perf_event_open, [memory, 0, -1, -1, 0]),
        "process_vm_readv" => (libc::SYS_process_vm_readv, [1, memory, 0, memory, 0]),
        "setuid" => (libc::SYS_setuid, [0, 0, 0, 0, 0]),
        "symlink" => (libc::SYS_symlinkat, [c"/etc".as_ptr() as c_long, here, text, 0, 0]),
        "fifo" => (libc::SYS_mknodat, [here, text, (libc::S_IFIFO | 0o600).into(), 0, 0]),
        "mkdir" => (libc::SYS_mkdir, [text, 0o700, 0, 0, 0]),
        "chmod" => (libc::SYS_chmod, [text, 0o4755, 0, 0, 0]),
        "wx_map" => {
            let both = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            (libc::SYS_mmap, [0, 4096, int(both), int(flags), -1])
        }
        "gain_exec" => {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let writable = int(libc::PROT_READ | libc::PROT_WRITE);
            let page = call(libc::SYS_mmap, [0, 4096, writable, int(flags), -1])?;
            (libc::SYS_mprotect, [page, 4096, int(libc::PROT_READ | libc::PROT_EXEC), 0, 0])
        }
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    call(nr, args).map(|_| ())
}

/// Any call with any numbers: `NUMBER:ARG:ARG...`
fn any_call(line: &str) -> io::Result<()> {
    let mut numbers = [0; 6];
    for (slot, text) in numbers.iter_mut().zip(line.split(':')) {
        *slot = text.parse().map_err(io::Error::other)?;
    }
    let [nr, args @ ..] = numbers;
    call(nr, args).map(|_| ())
}

/// Replaces this program by another, which must end with code 0 to count.
fn exec(path: &str) -> io::Result<()> {
    let (path, noop, zero) = (CString::new(path)?, c"exit", c"0");
    let argv = [path.as_ptr(), noop.as_ptr(), zero.as_ptr(), std::ptr::null()];
    call(libc::SYS_execve, [path.as_ptr() as c_long, pointer(&argv), 0, 0, 0]).map(|_| ())
}

/// The launcher's own exec once more: an absolute path makes the kernel ignore the descriptor that the filter sees.
fn exec_again(path: &str) -> io::Result<()> {
    let (path, noop, zero) = (CString::new(path)?, c"exit", c"0");
    let argv = [path.as_ptr(), noop.as_ptr(), zero.as_ptr(), std::ptr::null()];
    let (text, flags) = (path.as_ptr() as c_long, c_long::from(libc::AT_EMPTY_PATH));
    call(libc::SYS_execveat, [1000, text, pointer(&argv), 0, flags]).map(|_| ())
}

fn fork() -> io::Result<()> {
    let child = call(libc::SYS_clone, [c_long::from(libc::SIGCHLD), 0, 0, 0, 0])?;
    if child == 0 {
        std::process::exit(0);
    }
    Ok(())
}

fn read(path: &str) -> io::Result<()> {
    let mut text = String::new();
    File::open(path)?.take(4096).read_to_string(&mut text)?;
    say(&text);
    Ok(())
}

fn create(path: &str) -> io::Result<()> {
    OpenOptions::new().write(true).create(true).truncate(true).open(path)?.write_all(b"x")
}

fn list(path: &str) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        say(&entry?.file_name().to_string_lossy());
    }
    Ok(())
}

/// Works if the variable is there, or, without a name, prints all.
fn environment(name: &str) -> io::Result<()> {
    std::env::vars().for_each(|(name, value)| say(&format!("{name}={value}")));
    let found = name.is_empty() || std::env::var(name).is_ok();
    if found { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// Works if any descriptor but the standard three is open.
fn descriptors() -> io::Result<()> {
    let get = c_long::from(libc::F_GETFD);
    let mut open = (3..4096).filter(|fd| call(libc::SYS_fcntl, [*fd, get, 0, 0, 0]).is_ok());
    match open.next() {
        Some(fd) => {
            say(&format!("descriptor {fd}"));
            Ok(())
        }
        None => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Works if any other process can be seen.
fn processes() -> io::Result<()> {
    let own = std::process::id().to_string();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.bytes().all(|byte| byte.is_ascii_digit()) && name != own {
            return Ok(());
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// Works if so many threads can be alive at once, besides this one.
fn threads(count: usize) -> io::Result<()> {
    let barrier = Arc::new(Barrier::new(count + 1));
    for _ in 0..count {
        let barrier = Arc::clone(&barrier);
        // Left waiting on failure: exit ends them.
        drop(thread::Builder::new().stack_size(64 * 1024).spawn(move || barrier.wait())?);
    }
    barrier.wait();
    Ok(())
}

fn allocate(bytes: usize) -> io::Result<()> {
    let mut memory: Vec<u8> = Vec::new();
    memory.try_reserve_exact(bytes).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    memory.resize(bytes, 1);
    black_box(&memory);
    Ok(())
}

/// `PATH:BYTES`
fn fill(argument: &str) -> io::Result<()> {
    let (path, bytes) = argument.split_once(':').ok_or(io::ErrorKind::InvalidInput)?;
    let (mut file, block) = (File::create(path)?, [1; 4096]);
    for _ in 0..number(bytes)?.div_ceil(block.len()) {
        file.write_all(&block)?;
    }
    Ok(())
}

fn hold() -> io::Result<()> {
    say("ready");
    loop {
        thread::sleep(Duration::from_secs(1));
    }
}

/// Until killed: files of 64 KiB without end, each far below any limit of one file.
fn litter(folder: &str) -> io::Result<()> {
    let mut number = 0_u64;
    loop {
        fill(&format!("{folder}/{number}:65536"))?;
        number += 1;
    }
}

/// `FOLDER:FILES:BYTES`: so many files that are full and open, and that no listing of the folder shows.
fn ghosts(argument: &str) -> io::Result<()> {
    let mut parts = argument.split(':');
    let mut next = || parts.next().ok_or(io::ErrorKind::InvalidInput);
    let (folder, files, bytes) = (next()?, number(next()?)?, number(next()?)?);
    let mut open = Vec::new();
    for at in 0..files {
        let path = format!("{folder}/ghost{at}");
        let mut file = File::create(&path)?;
        fs::remove_file(&path)?;
        file.write_all(&vec![1; bytes])?;
        open.push(file);
    }
    black_box(&open);
    Ok(())
}

/// As [`ghosts`] with one file, by a rename over it.
fn replace(folder: &str) -> io::Result<()> {
    let (first, second) = (format!("{folder}/first"), format!("{folder}/second"));
    let open = File::create(&first)?;
    File::create(&second)?;
    fs::rename(second, first)?;
    black_box(&open);
    Ok(())
}

/// A file that never has a name.
fn nameless(folder: &str) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .mode(0o600)
        .open(folder)
        .map(|_| ())
}

/// Works if this program may leave a core: in a file, or in the hands of a program of the host's.
fn core_limit() -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let text = std::ptr::from_mut(&mut limit) as c_long;
    call(libc::SYS_prlimit64, [0, libc::RLIMIT_CORE.into(), 0, text, 0])?;
    // 1 is the one value at which the kernel starts no `core_pattern` program; a file needs a page.
    let none = (limit.rlim_cur, limit.rlim_max) == (1, 1);
    if none { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(()) }
}

/// Until killed: standard error without end.
fn flood() -> io::Result<()> {
    loop {
        io::stderr().write_all(&[b'e'; 4096])?;
    }
}

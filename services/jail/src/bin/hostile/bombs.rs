//! Taking by numbers: processes, threads, stack, and files that are all hole.

use std::fs::File;
use std::hint::black_box;
use std::io::{self, Seek, SeekFrom, Write};
use std::thread;
use std::time::Duration;

use crate::calls::call;
use crate::{argument, number};

pub(crate) fn run(attack: &str, args: &[&str]) -> Option<io::Result<()>> {
    Some(match attack {
        "fork_bomb" => number(args, 0).and_then(|count| fork_bomb(count, number(args, 1)?)),
        "spin_threads" => number(args, 0).and_then(spin_threads),
        "hole" => argument(args, 0).and_then(|path| hole(path, number(args, 1)?)),
        "holes" => argument(args, 0).and_then(|dir| holes(dir, number(args, 1)?, number(args, 2)?)),
        "deep" => number(args, 0).map(deep),
        _ => return None,
    })
}

/// So many children, each with so many bytes of memory, all at once. Fails when one is refused or killed.
fn fork_bomb(count: usize, bytes: usize) -> io::Result<()> {
    for _ in 0..count {
        if call(libc::SYS_clone, [libc::SIGCHLD.into()])? == 0 {
            let memory = vec![1_u8; bytes];
            // Longer than any limit of a test.
            thread::sleep(Duration::from_secs(60));
            black_box(&memory);
            std::process::exit(0);
        }
    }
    let mut status = 0_i32;
    let status_at = std::ptr::from_mut(&mut status) as libc::c_long;
    call(libc::SYS_wait4, [-1, status_at, 0, 0])?;
    match black_box(status) {
        0 => Ok(()),
        _ => Err(io::Error::from_raw_os_error(libc::ENOMEM)),
    }
}

/// Until killed: so many threads that count.
fn spin_threads(count: usize) -> io::Result<()> {
    let spin = || {
        loop {
            black_box(0);
        }
    };
    for _ in 1..count {
        drop(thread::Builder::new().stack_size(64 * 1024).spawn(spin)?);
    }
    spin()
}

/// A file of that size that takes no space but for its last byte.
fn hole(path: &str, bytes: u64) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.seek(SeekFrom::Start(bytes.saturating_sub(1)))?;
    file.write_all(b"x")
}

/// So many files of that size that take no space.
fn holes(folder: &str, count: usize, bytes: u64) -> io::Result<()> {
    (0..count).try_for_each(|at| hole(&format!("{folder}/{at}"), bytes))
}

/// So many kilobytes of stack.
fn deep(kilobytes: usize) {
    let frame = black_box([1_u8; 1024]);
    if kilobytes > 0 {
        deep(kilobytes - 1);
    }
    black_box(&frame);
}

//! Taking more than one's share: memory, threads, files, bytes, descriptors, time, output.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{self, Write};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use crate::calls::{call, done};
use crate::{argument, missed, number, say};

pub(crate) fn run(attack: &str, args: &[&str]) -> Option<io::Result<()>> {
    Some(match attack {
        "exit" => number(args, 0).and_then(|code| std::process::exit(code)),
        "abort" => std::process::abort(),
        "hold" => hold(),
        "spin" => loop {
            black_box(0);
        },
        "litter" => argument(args, 0).and_then(litter),
        "litter_for" => argument(args, 0).and_then(|folder| {
            let files: u32 = number(args, 1)?;
            (0..files).try_for_each(|at| fill(&format!("{folder}/{at}:65536")))
        }),
        "ghosts" => argument(args, 0).and_then(ghosts),
        "fill" => argument(args, 0).and_then(fill),
        "many" => argument(args, 0).and_then(|folder| many(folder, number(args, 1)?)),
        "threads" => number(args, 0).and_then(threads),
        "forks" => number(args, 0).and_then(forks),
        "allocate" => number(args, 0).and_then(allocate),
        "open_many" => argument(args, 0).and_then(|path| open_many(path, number(args, 1)?)),
        "lock" => lock(),
        "busy" => number(args, 0).and_then(|processor_ms| busy(processor_ms, number(args, 1)?)),
        "idle" => number(args, 0).map(|ms| thread::sleep(Duration::from_millis(ms))),
        "talk" => argument(args, 0).and_then(|stream| talk(stream, number(args, 1)?)),
        "core_limit" => core_limit(),
        _ => return None,
    })
}

fn hold() -> io::Result<()> {
    say("ready");
    loop {
        thread::sleep(Duration::from_secs(1));
    }
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

/// Works if so many processes can be alive at once; each ends by itself after a second.
fn forks(count: usize) -> io::Result<()> {
    for _ in 0..count {
        if call(libc::SYS_clone, [libc::SIGCHLD.into()])? == 0 {
            thread::sleep(Duration::from_secs(1));
            std::process::exit(0);
        }
    }
    Ok(())
}

/// So much memory, and something in each page of it.
fn allocate(bytes: usize) -> io::Result<()> {
    let mut memory: Vec<u8> = Vec::new();
    memory.try_reserve_exact(bytes).map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))?;
    for page in memory.spare_capacity_mut().chunks_mut(4096) {
        if let Some(first) = page.first_mut() {
            first.write(1);
        }
    }
    black_box(&memory);
    Ok(())
}

/// `PATH:BYTES`
fn fill(argument: &str) -> io::Result<()> {
    let (path, bytes) = argument.split_once(':').ok_or(io::ErrorKind::InvalidInput)?;
    let bytes: usize = number(&[bytes], 0)?;
    let (mut file, block) = (File::create(path)?, [1; 4096]);
    for _ in 0..bytes.div_ceil(block.len()) {
        file.write_all(&block)?;
    }
    Ok(())
}

/// So many empty files.
fn many(folder: &str, files: usize) -> io::Result<()> {
    (0..files).try_for_each(|at| File::create(format!("{folder}/{at}")).map(|_| ()))
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
    let parts: Vec<&str> = argument.split(':').collect();
    let folder = crate::argument(&parts, 0)?;
    let (files, bytes): (usize, usize) = (number(&parts, 1)?, number(&parts, 2)?);
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

/// The same file, opened so often, and none closed.
fn open_many(path: &str, count: usize) -> io::Result<()> {
    let open: io::Result<Vec<File>> = (0..count).map(|_| File::open(path)).collect();
    open.map(|files| drop(black_box(files)))
}

/// Memory that the host cannot take back.
fn lock() -> io::Result<()> {
    let page = vec![1_u8; 4096];
    done(libc::SYS_mlock, [page.as_ptr() as libc::c_long, 4096])
}

/// Uses so many milliseconds of processor, and stays for so many altogether.
fn busy(processor_ms: i64, stay_ms: u64) -> io::Result<()> {
    let start = Instant::now();
    let mut used = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    while used.tv_sec * 1000 + used.tv_nsec / 1_000_000 < processor_ms {
        black_box((0..1_000_000_u64).sum::<u64>());
        // SAFETY: the pointer is to a local; the clock is this process's own.
        unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut used) };
    }
    thread::sleep(Duration::from_millis(stay_ms).saturating_sub(start.elapsed()));
    Ok(())
}

/// So many bytes on standard output or standard error.
fn talk(stream: &str, bytes: usize) -> io::Result<()> {
    let block = [b'h'; 4096];
    for _ in 0..bytes.div_ceil(block.len()) {
        match stream {
            "stdout" => io::stdout().write_all(&block)?,
            _ => io::stderr().write_all(&block)?,
        }
    }
    Ok(())
}

/// Works if this program may leave a core: in a file, or in the hands of a program of the host's.
fn core_limit() -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let to = std::ptr::from_mut(&mut limit) as libc::c_long;
    call(libc::SYS_prlimit64, [0, libc::RLIMIT_CORE.into(), 0, to])?;
    // 1 is the one value at which the kernel starts no `core_pattern` program; a file needs a page.
    let none = (limit.rlim_cur, limit.rlim_max) == (1, 1);
    if none { missed() } else { Ok(()) }
}

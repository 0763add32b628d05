//! For tests: does what honest programs do rarely, and what hostile ones do at once.
//!
//! Usage: `hotcell-rare DEED [NUMBER...]`. Promises: exit code 0 when it worked, 1 when the kernel refused it (the errno is
//! printed). Refuses nothing: it is only ever run in cells.

use std::ffi::c_long;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Vec<c_long> = args.iter().filter_map(|arg| arg.parse().ok()).collect();
    let done = match args.first().map_or("", String::as_str) {
        "heap" => broken_heap(),
        "grow" => grow(),
        "fstat" => call(&[libc::SYS_fstat, 0, room(), 0]),
        "raw" => call(&numbers),
        "crowd" => crowd(&numbers),
        "restless" => restless(&numbers),
        "signal_init" => signal_init(),
        "int80" => int80(),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    };
    let Err(error) = done else { return ExitCode::SUCCESS };
    // A program without a reader still has its exit code.
    drop(writeln!(io::stdout(), "refused errno={}", error.raw_os_error().unwrap_or(0)));
    ExitCode::FAILURE
}

/// One call with any numbers.
fn call(numbers: &[c_long]) -> io::Result<()> {
    let mut all = [0; 7];
    for (slot, number) in all.iter_mut().zip(numbers) {
        *slot = *number;
    }
    let [nr, a, b, c, d, e, f] = all;
    // SAFETY: a test passes numbers for which the kernel touches no memory, or the address that `room` gives.
    let result = unsafe { libc::syscall(nr, a, b, c, d, e, f) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Room for any structure that the kernel writes.
fn room() -> c_long {
    Box::leak(Box::new([0_u64; 64])).as_mut_ptr() as c_long
}

/// What a codec with a broken heap does: glibc says so, and aborts.
fn broken_heap() -> io::Result<()> {
    // SAFETY: it is not: freeing twice is the point, and glibc answers it by ending the program.
    unsafe {
        let block = libc::malloc(64);
        libc::free(block);
        libc::free(block);
    }
    Ok(())
}

/// A buffer that outgrows the heap and is then enlarged.
fn grow() -> io::Result<()> {
    let mut buffer = vec![1_u8; 1 << 20];
    buffer.reserve_exact(8 << 20);
    std::hint::black_box(&buffer);
    Ok(())
}

/// The same call in sixteen threads at once.
fn crowd(numbers: &[c_long]) -> io::Result<()> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..16).map(|_| scope.spawn(|| call(numbers))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or(Ok(())))
    })
}

/// The call again and again, in a thread that a handler interrupts all the time.
fn restless(numbers: &[c_long]) -> io::Result<()> {
    static HANDLED: AtomicBool = AtomicBool::new(false);
    extern "C" fn handler(_: i32) {
        HANDLED.store(true, Ordering::Relaxed);
    }
    let handler: extern "C" fn(i32) = handler;
    // SAFETY: the handler stores one flag, which is async-signal-safe.
    unsafe { libc::signal(libc::SIGABRT, handler as libc::sighandler_t) };
    // SAFETY: no pointer.
    let (group, target) = unsafe { (libc::getpid(), libc::syscall(libc::SYS_gettid)) };
    let signal = c_long::from(libc::SIGABRT);
    thread::spawn(move || {
        loop {
            drop(call(&[libc::SYS_tgkill, group.into(), target, signal]));
        }
    });
    while !HANDLED.load(Ordering::Relaxed) {
        thread::yield_now();
    }
    for _ in 0..100_000 {
        // Interrupted is neither allowed nor refused.
        match call(numbers) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
    Err(io::ErrorKind::Interrupted.into())
}

/// Signals to process 1, by the one call that could carry them.
fn signal_init() -> io::Result<()> {
    (1..=64).try_for_each(|signal| call(&[libc::SYS_tgkill, 1, 1, signal]))
}

/// getpid by the door of 32-bit programs.
fn int80() -> io::Result<()> {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: number 20 is getpid, which takes nothing; r8 to r11 may be lost.
    unsafe {
        std::arch::asm!("int 0x80", inout("rax") 20_i64 => _, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    }
    Ok(())
}

//! New code in memory: each attack puts two instructions where they can be run, and runs them.

use std::ffi::c_long;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;

use crate::calls::{call, descriptor, done, text};
use crate::{argument, missed, number};

const PAGE: c_long = 4096;
const READ: c_long = libc::PROT_READ as c_long;
const WRITE: c_long = libc::PROT_WRITE as c_long;
const EXEC: c_long = libc::PROT_EXEC as c_long;
const PRIVATE: c_long = libc::MAP_PRIVATE as c_long;
const ANONYMOUS: c_long = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as c_long;
const SHARED: c_long = libc::MAP_SHARED as c_long;

/// Returns 42.
#[cfg(target_arch = "x86_64")]
const CODE: [u8; 6] = [0xb8, 42, 0, 0, 0, 0xc3];
/// Returns 42.
#[cfg(target_arch = "aarch64")]
const CODE: [u8; 8] = [0x40, 0x05, 0x80, 0x52, 0xc0, 0x03, 0x5f, 0xd6];

pub(crate) fn run(attack: &str, args: &[&str]) -> Option<io::Result<()>> {
    Some(match attack {
        "wx_map" => map(READ | WRITE | EXEC, ANONYMOUS, -1).and_then(|page| {
            put(page);
            go(page)
        }),
        "gain_exec" => gain(libc::SYS_mprotect),
        "gain_exec_key" => gain(libc::SYS_pkey_mprotect),
        "implied_exec" => implied(),
        "file_exec" => argument(args, 0).and_then(file),
        "shared_exec" => argument(args, 0).and_then(shared),
        "memfd_exec" => memfd(),
        "proc_mem" => proc_mem(),
        "memfd" => descriptor(libc::SYS_memfd_create, [text(c"x"), 0]).map(|_| ()),
        "x32" => done(libc::SYS_getpid | 0x4000_0000, [0]),
        "i386" => i386(),
        "ldt" => local_descriptors(),
        "raw" => any_call(args),
        _ => return None,
    })
}

fn map(protection: c_long, flags: c_long, fd: c_long) -> io::Result<c_long> {
    call(libc::SYS_mmap, [0, PAGE, protection, flags, fd, 0])
}

fn put(page: c_long) {
    // SAFETY: `page` is a page that this program has just mapped writable, and the code is shorter.
    unsafe { std::ptr::copy_nonoverlapping(CODE.as_ptr(), page as *mut u8, CODE.len()) };
}

/// Runs what is at `page`; works if it does what was put there.
fn go(page: c_long) -> io::Result<()> {
    // SAFETY: the page holds `CODE`, which is a whole function of this processor without arguments.
    let code: extern "C" fn() -> i32 = unsafe { std::mem::transmute(page) };
    if code() == 42 { Ok(()) } else { missed() }
}

fn gain(nr: c_long) -> io::Result<()> {
    let page = map(READ | WRITE, ANONYMOUS, -1)?;
    put(page);
    // The fourth argument is no key for the one, and nothing for the other.
    done(nr, [page, PAGE, READ | EXEC, -1])?;
    go(page)
}

/// READ_IMPLIES_EXEC, as an old program would have it.
fn implied() -> io::Result<()> {
    done(libc::SYS_personality, [c_long::from(libc::READ_IMPLIES_EXEC)])?;
    let page = map(READ | WRITE, ANONYMOUS, -1)?;
    put(page);
    // MDWE says no to the map; where it is off, the page can be run.
    go(page)
}

/// Writes a file and maps it as code: what a dynamic loader does with a library.
fn file(path: &str) -> io::Result<()> {
    File::create(path)?.write_all(&CODE)?;
    let file = File::open(path)?;
    go(map(READ | EXEC, PRIVATE, file.as_raw_fd().into())?)
}

/// One file, mapped twice: what is written to the one is run at the other.
fn shared(path: &str) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    (&file).write_all(&[0; 4096])?;
    let code = map(READ | EXEC, SHARED, file.as_raw_fd().into())?;
    put(map(READ | WRITE, SHARED, file.as_raw_fd().into())?);
    go(code)
}

fn memfd() -> io::Result<()> {
    let file = descriptor(libc::SYS_memfd_create, [text(c"x"), 0])?;
    let number = file.as_raw_fd();
    File::from(file.try_clone()?).write_all(&CODE)?;
    go(map(READ | EXEC, PRIVATE, number.into())?)
}

/// Writes over read-only code through `/proc/self/mem`, which asks for no right of the page.
fn proc_mem() -> io::Result<()> {
    let page = map(READ | EXEC, ANONYMOUS, -1)?;
    let mut memory = OpenOptions::new().write(true).open("/proc/self/mem")?;
    memory.seek(SeekFrom::Start(u64::try_from(page).unwrap_or(0)))?;
    memory.write_all(&CODE)?;
    go(page)
}

/// The 32-bit door: number 20 is getpid there.
#[cfg(target_arch = "x86_64")]
fn i386() -> io::Result<()> {
    let mut result = 20_i64;
    // SAFETY: the call takes no argument and changes no memory; the kernel keeps all registers but rax and r8 to r11.
    unsafe {
        std::arch::asm!(
            "int 0x80", inout("rax") result, out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    if result > 0 { Ok(()) } else { missed() }
}

/// Not on this processor.
#[cfg(not(target_arch = "x86_64"))]
fn i386() -> io::Result<()> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

/// A 16-bit segment, the start of many a kernel fault.
#[cfg(target_arch = "x86_64")]
fn local_descriptors() -> io::Result<()> {
    // struct user_desc: entry 0, base 0, limit 0, seg_32bit, read_exec_only, seg_not_present.
    let entry: [u32; 4] = [0, 0, 0, 0b10_1001];
    done(libc::SYS_modify_ldt, [1, crate::calls::pointer(&entry), 16])
}

/// Not on this processor.
#[cfg(not(target_arch = "x86_64"))]
fn local_descriptors() -> io::Result<()> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

/// Any call with any numbers: `NUMBER:ARG:ARG...`
fn any_call(args: &[&str]) -> io::Result<()> {
    let mut numbers: [c_long; 7] = [0; 7];
    let words: Vec<&str> = argument(args, 0)?.split(':').collect();
    for (at, slot) in numbers.iter_mut().enumerate().take(words.len()) {
        *slot = number(&words, at)?;
    }
    let [nr, args @ ..] = numbers;
    done(nr, args)
}

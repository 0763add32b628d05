//! Starting another program: one of the host, one that was dropped, one of memory, the input, one with more rights.

use std::ffi::c_long;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use crate::argument;
use crate::calls::{c_text, descriptor, done, pointer, text};

pub(crate) fn run(attack: &str, args: &[&str]) -> Option<io::Result<()>> {
    Some(match attack {
        "exec" => argument(args, 0).and_then(exec),
        "exec_again" => argument(args, 0).and_then(exec_again),
        "exec_dropped" => {
            argument(args, 0).and_then(|path| drop_program(path).and_then(|()| exec(path)))
        }
        "exec_memfd" => exec_memfd(),
        "program" => {
            let stdout = io::stdout();
            stdout.lock().write_all(&smallest_program(DONE))
        }
        // Exits with code 0 if it runs as root, else with 1.
        "root_program" => {
            let stdout = io::stdout();
            stdout.lock().write_all(&smallest_program(AM_I_ROOT))
        }
        _ => return None,
    })
}

/// Replaces this program by another, which must end with code 0 to count.
fn exec(path: &str) -> io::Result<()> {
    let (path, attack, code) = (c_text(path)?, c"exit", c"0");
    let argv = [path.as_ptr(), attack.as_ptr(), code.as_ptr(), std::ptr::null()];
    done(libc::SYS_execve, [text(&path), pointer(&argv), 0])
}

/// The launcher's own exec once more: an absolute path makes the kernel ignore the descriptor that the filter sees.
fn exec_again(path: &str) -> io::Result<()> {
    let (path, attack, code) = (c_text(path)?, c"exit", c"0");
    let argv = [path.as_ptr(), attack.as_ptr(), code.as_ptr(), std::ptr::null()];
    let flags = c_long::from(libc::AT_EMPTY_PATH);
    done(libc::SYS_execveat, [1000, text(&path), pointer(&argv), 0, flags])
}

fn exec_memfd() -> io::Result<()> {
    let file = descriptor(libc::SYS_memfd_create, [text(c"x"), 0])?;
    let number = file.as_raw_fd();
    File::from(file.try_clone()?).write_all(&smallest_program(DONE))?;
    let argv = [c"x".as_ptr(), std::ptr::null()];
    let flags = c_long::from(libc::AT_EMPTY_PATH);
    done(libc::SYS_execveat, [number.into(), text(c""), pointer(&argv), 0, flags])
}

fn drop_program(path: &str) -> io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o700).open(path)?;
    file.write_all(&smallest_program(DONE))
}

#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;
/// mov eax, 60; xor edi, edi; syscall
#[cfg(target_arch = "x86_64")]
const DONE: &[u8] = &[0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05];
/// mov x0, #0; mov x8, #93; svc #0
#[cfg(target_arch = "aarch64")]
const DONE: &[u8] = &[0, 0, 0x80, 0xd2, 0xa8, 0x0b, 0x80, 0xd2, 1, 0, 0, 0xd4];
/// mov eax, 107 (geteuid); syscall; xor edi, edi; test eax, eax; setne dil; mov eax, 60; syscall
#[cfg(target_arch = "x86_64")]
const AM_I_ROOT: &[u8] = &[
    0xb8, 107, 0, 0, 0, 0x0f, 0x05, 0x31, 0xff, 0x85, 0xc0, 0x40, 0x0f, 0x95, 0xc7, 0xb8, 60, 0, 0,
    0, 0x0f, 0x05,
];
/// mov x8, #175 (geteuid); svc #0; cmp x0, #0; cset x0, ne; mov x8, #93; svc #0
#[cfg(target_arch = "aarch64")]
const AM_I_ROOT: &[u8] = &[
    0xe8, 0x15, 0x80, 0xd2, 1, 0, 0, 0xd4, 0x1f, 0, 0, 0xf1, 0xe0, 0x07, 0x9f, 0x9a, 0xa8, 0x0b,
    0x80, 0xd2, 1, 0, 0, 0xd4,
];

/// An ELF header, one segment, a few instructions.
fn smallest_program(code: &[u8]) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    let size = 120 + code.len() as u64;
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let short =
        |elf: &mut Vec<u8>, all: &[u16]| all.iter().for_each(|it| elf.extend(it.to_le_bytes()));
    let long =
        |elf: &mut Vec<u8>, all: &[u64]| all.iter().for_each(|it| elf.extend(it.to_le_bytes()));
    // ET_EXEC, version 1, entry after the headers, one program header at 64.
    short(&mut elf, &[2, MACHINE, 1, 0]);
    long(&mut elf, &[BASE + 120, 64, 0]);
    short(&mut elf, &[0, 0, 64, 56, 1, 0, 0, 0]);
    // PT_LOAD, readable and executable.
    short(&mut elf, &[1, 0, 5, 0]);
    long(&mut elf, &[0, BASE, BASE, size, size, 4096]);
    elf.extend(code);
    elf
}

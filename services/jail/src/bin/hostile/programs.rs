//! Starting another program: one of the host, one that was dropped, one of memory, the input, one with more rights.

use std::ffi::c_long;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;

use crate::calls::{c_text, descriptor, done, pointer, text};
use crate::{argument, missed, number, say};

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
            stdout.lock().write_all(&smallest_program())
        }
        // What a set-user-id program of the host's would be after exec.
        "as_root" => match number(args, 0) {
            // SAFETY: geteuid takes nothing and cannot fail.
            Ok(wanted) if unsafe { libc::geteuid() } == wanted => {
                say("root");
                Ok(())
            }
            _ => missed(),
        },
        "exec_set_user_id" => argument(args, 0).and_then(exec_set_user_id),
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

/// A copy of this program that belongs to root and has the set-user-id bit.
fn exec_set_user_id(path: &str) -> io::Result<()> {
    let (path, attack, user) = (c_text(path)?, c"as_root", c"0");
    let argv = [path.as_ptr(), attack.as_ptr(), user.as_ptr(), std::ptr::null()];
    done(libc::SYS_execve, [text(&path), pointer(&argv), 0])
}

fn exec_memfd() -> io::Result<()> {
    let file = descriptor(libc::SYS_memfd_create, [text(c"x"), 0])?;
    let number = file.as_raw_fd();
    File::from(file.try_clone()?).write_all(&smallest_program())?;
    let argv = [c"x".as_ptr(), std::ptr::null()];
    let flags = c_long::from(libc::AT_EMPTY_PATH);
    done(libc::SYS_execveat, [number.into(), text(c""), pointer(&argv), 0, flags])
}

fn drop_program(path: &str) -> io::Result<()> {
    fs::write(path, smallest_program())?;
    // Where even this is refused, the attack has failed as well.
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// A program that exits with code 0 at once: an ELF header, one segment, three or four instructions.
fn smallest_program() -> Vec<u8> {
    #[cfg(target_arch = "x86_64")]
    const MACHINE: u16 = 62;
    #[cfg(target_arch = "aarch64")]
    const MACHINE: u16 = 183;
    // mov eax, 60; xor edi, edi; syscall
    #[cfg(target_arch = "x86_64")]
    const CODE: &[u8] = &[0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05];
    // mov x0, #0; mov x8, #93; svc #0
    #[cfg(target_arch = "aarch64")]
    const CODE: &[u8] = &[0, 0, 0x80, 0xd2, 0xa8, 0x0b, 0x80, 0xd2, 1, 0, 0, 0xd4];
    const BASE: u64 = 0x40_0000;
    let size = 120 + CODE.len() as u64;
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
    elf.extend(CODE);
    elf
}

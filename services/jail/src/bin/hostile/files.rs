//! Files: those of the host, of other jobs, of this job, and what may be made in the output folder.

use std::ffi::c_long;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use crate::calls::{c_text, call, descriptor, done, text};
use crate::{argument, missed, number, say};

const HERE: c_long = libc::AT_FDCWD as c_long;
/// No file that is read for its content is longer.
const READ_BYTES_MAX: u64 = 64 * 1024;

pub(crate) fn run(attack: &str, args: &[&str]) -> Option<io::Result<()>> {
    let first = argument(args, 0);
    let path = || first.as_ref().copied().unwrap_or_default();
    Some(match attack {
        "read" => read(path()),
        "open" => File::open(path()).map(|_| ()),
        // No byte is written, and nothing is cut.
        "write" => OpenOptions::new().write(true).open(path()).map(|_| ()),
        "create" => create(path()),
        "list" => list(path()),
        "environment" => environment(path()),
        "surplus" => surplus(),
        "arguments" => {
            std::env::args().for_each(|argument| say(&argument));
            Ok(())
        }
        "descriptors" => descriptors(),
        "descriptor_content" => descriptor_content(),
        "processes" => processes(),
        "symlink" => at(libc::SYS_symlinkat, path(), |new| [text(c"/etc/shadow"), HERE, new, 0]),
        "hardlink" => hardlink(path()),
        "fifo" => at(libc::SYS_mknodat, path(), |new| [HERE, new, fifo(), 0]),
        // The null device: 1, 3.
        "device" => at(libc::SYS_mknodat, path(), |new| [HERE, new, device(), 0x103]),
        "mkdir" => fs::create_dir(path()),
        "socket_file" => socket_file(path()),
        "chmod" => made(path(), |path| done(libc::SYS_fchmodat, [HERE, path, 0o6755])),
        "create_set_user_id" => create_set_user_id(path()),
        "chown" => made(path(), |path| done(libc::SYS_fchownat, [HERE, path, 1, 1, 0])),
        "attribute" => made(path(), |path| {
            let (name, value) = (text(c"user.x"), text(c"x"));
            done(libc::SYS_setxattr, [path, name, value, 1, 0])
        }),
        "follow" => follow(path()),
        "sparse" => sparse(path(), number(args, 1)),
        "replace" => replace(path()),
        "remove" => fs::write(path(), "x").and_then(|()| fs::remove_file(path())),
        "nameless" => nameless(path()),
        "watch" => watch(path()),
        "handle" => handle(path()),
        "open_handle" => argument(args, 1).and_then(|handle| open_handle(path(), handle)),
        "splice" => splice(),
        _ => return None,
    })
}

const fn fifo() -> c_long {
    (libc::S_IFIFO | 0o600) as c_long
}

const fn device() -> c_long {
    (libc::S_IFCHR | 0o600) as c_long
}

/// A call that makes `path`.
fn at(nr: c_long, path: &str, args: impl Fn(c_long) -> [c_long; 4]) -> io::Result<()> {
    let path = c_text(path)?;
    done(nr, args(text(&path)))
}

/// A call on a new file at `path`.
fn made(path: &str, change: impl Fn(c_long) -> io::Result<()>) -> io::Result<()> {
    create(path)?;
    let path = c_text(path)?;
    change(text(&path))
}

fn read(path: &str) -> io::Result<()> {
    let mut bytes = Vec::new();
    File::open(path)?.take(READ_BYTES_MAX).read_to_end(&mut bytes)?;
    say(&String::from_utf8_lossy(&bytes));
    Ok(())
}

fn create(path: &str) -> io::Result<()> {
    OpenOptions::new().write(true).create(true).truncate(true).open(path)?.write_all(b"x")
}

/// Works if the new file has the bit: open(2) keeps it, whatever the umask is.
fn create_set_user_id(path: &str) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o4700).open(path)?;
    let mode = file.metadata()?.mode();
    if mode & 0o4000 == 0 { missed() } else { Ok(()) }
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
    if found { Ok(()) } else { missed() }
}

/// Works if anything is in the environment but the constant of every cell.
fn surplus() -> io::Result<()> {
    let found = std::env::vars_os().find(|(name, _)| name != "LC_ALL");
    found.map_or_else(missed, |(name, _)| {
        say(&name.to_string_lossy());
        Ok(())
    })
}

fn open_descriptors() -> impl Iterator<Item = c_long> {
    (3..4096).filter(|fd| {
        let mut state = [0_u64; 32];
        call(libc::SYS_fstat, [*fd, state.as_mut_ptr() as c_long]).is_ok()
    })
}

/// Works if any descriptor but the standard three is open.
fn descriptors() -> io::Result<()> {
    match open_descriptors().next() {
        Some(fd) => {
            say(&format!("descriptor {fd}"));
            Ok(())
        }
        None => missed(),
    }
}

/// Prints what is behind each descriptor that is open, from its beginning.
fn descriptor_content() -> io::Result<()> {
    let mut found = missed();
    for fd in open_descriptors() {
        let mut bytes = [0_u8; 256];
        // All who inherited it share its position.
        call(libc::SYS_lseek, [fd, 0, 0]).ok();
        if let Ok(len) = call(libc::SYS_read, [fd, bytes.as_mut_ptr() as c_long, 256]) {
            let read = bytes.get(..usize::try_from(len).unwrap_or(0)).unwrap_or_default();
            say(&String::from_utf8_lossy(read));
            found = Ok(());
        }
    }
    found
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
    missed()
}

/// A second name for a file of the same folder.
fn hardlink(path: &str) -> io::Result<()> {
    create(path)?;
    let (old, new) = (c_text(path)?, c_text(&format!("{path}.link"))?);
    done(libc::SYS_linkat, [HERE, text(&old), HERE, text(&new), 0])
}

fn socket_file(path: &str) -> io::Result<()> {
    std::os::unix::net::UnixListener::bind(path).map(|_| ())
}

/// Makes a symbolic link and goes through it.
fn follow(path: &str) -> io::Result<()> {
    let (target, link) = (format!("{path}.target"), format!("{path}.link"));
    fs::write(&target, "x")?;
    at(libc::SYS_symlinkat, &link, |new| [text(c"follow.target"), HERE, new, 0])?;
    fs::read(&link).map(|_| ())
}

/// A file that is larger than any output may be, of nothing but its last byte.
fn sparse(path: &str, bytes: io::Result<u64>) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.seek(SeekFrom::Start(bytes?))?;
    file.write_all(b"x")
}

/// A file that is open and has no name any more: no listing of the folder shows it. By a rename over it.
fn replace(folder: &str) -> io::Result<()> {
    let (first, second) = (format!("{folder}/first"), format!("{folder}/second"));
    let open = File::create(&first)?;
    File::create(&second)?;
    fs::rename(second, first)?;
    drop(open);
    Ok(())
}

/// A file that never has a name.
fn nameless(folder: &str) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .mode(0o600)
        .open(folder)
        .map(|_| ())
}

/// Hears of what others do with a file.
fn watch(path: &str) -> io::Result<()> {
    let path = c_text(path)?;
    let watch = descriptor(libc::SYS_inotify_init1, [0])?;
    let all = c_long::from(libc::IN_ALL_EVENTS);
    done(libc::SYS_inotify_add_watch, [watch.as_raw_fd().into(), text(&path), all])
}

/// `struct file_handle` with the longest handle: linux/fcntl.h, MAX_HANDLE_SZ.
#[repr(C, align(8))]
struct Handle {
    bytes: u32,
    kind: i32,
    handle: [u8; 128],
}

/// Prints the kernel's own name of a file, which leads to it without a path.
fn handle(path: &str) -> io::Result<()> {
    let path = c_text(path)?;
    let mut handle = Handle { bytes: 128, kind: 0, handle: [0; 128] };
    let mut mount = 0_i32;
    let (to, mount) = (std::ptr::from_mut(&mut handle), std::ptr::from_mut(&mut mount));
    done(libc::SYS_name_to_handle_at, [HERE, text(&path), to as c_long, mount as c_long, 0])?;
    let len = usize::try_from(handle.bytes).unwrap_or(0);
    let hex: String = handle.handle.iter().take(len).map(|byte| format!("{byte:02x}")).collect();
    say(&format!("{}:{hex}", handle.kind));
    Ok(())
}

/// Reads the file that has this handle, on the file system of `folder`: the door is a folder of one's own.
fn open_handle(folder: &str, text: &str) -> io::Result<()> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let (kind, hex) = text.split_once(':').ok_or_else(invalid)?;
    let mut handle =
        Handle { bytes: 0, kind: kind.parse().map_err(|_| invalid())?, handle: [0; 128] };
    for (slot, pair) in handle.handle.iter_mut().zip(hex.as_bytes().chunks(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| invalid())?;
        *slot = u8::from_str_radix(pair, 16).map_err(|_| invalid())?;
        handle.bytes += 1;
    }
    let folder = File::open(folder)?;
    let to = std::ptr::from_mut(&mut handle) as c_long;
    let file = descriptor(libc::SYS_open_by_handle_at, [folder.as_raw_fd().into(), to, 0])?;
    let mut content = String::new();
    File::from(file).take(READ_BYTES_MAX).read_to_string(&mut content)?;
    say(&content);
    Ok(())
}

/// Moves its own pages into a pipe without a copy.
fn splice() -> io::Result<()> {
    let (_reader, writer) = io::pipe()?;
    let page = [1_u8; 4096];
    let part = libc::iovec { iov_base: page.as_ptr().cast_mut().cast(), iov_len: page.len() };
    let list = crate::calls::pointer(&part);
    done(libc::SYS_vmsplice, [writer.as_raw_fd().into(), list, 1, 0])
}

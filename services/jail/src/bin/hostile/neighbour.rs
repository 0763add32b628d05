//! What the attacks are after: a process of the cell's own user that is no part of the cell, as the program of another
//! job is. It holds secrets in every place that a process has, says where, and waits until its standard input ends.

use std::ffi::c_long;
use std::fs::File;
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::thread;

use crate::argument;
use crate::calls::{c_text, call, descriptor, done, pointer, text};

/// Rights of its shared objects: its user's.
const MODE: c_long = 0o600;

pub(crate) fn run(attack: &str, args: &[&str]) -> Option<io::Result<()>> {
    (attack == "neighbour")
        .then(|| neighbour(argument(args, 0)?, argument(args, 1)?, argument(args, 2)?))
}

/// `SECRET FILE SOCKET`: prints the address of the secret, a writable address, the number of the descriptor of FILE, the name
/// of its abstract socket, the id of its shared memory and the name of its queue.
fn neighbour(secret: &str, file: &str, socket: &str) -> io::Result<()> {
    let file = File::open(file)?;
    let (memory, mut writable) = (secret.to_owned().into_bytes(), vec![0_u8; 1]);
    let name = format!("hotcell-neighbour-{}", std::process::id());
    greet(UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?, memory.clone());
    greet(UnixListener::bind(socket)?, memory.clone());
    let shared = shared_memory(&memory)?;
    let queue = format!("hotcell-{}", std::process::id());
    let held = Queue::make(&queue, &memory)?;
    let (at, writable_at) = (memory.as_ptr() as usize, writable.as_mut_ptr() as usize);
    let fd = file.as_raw_fd();
    crate::say(&format!("{at} {writable_at} {fd} {name} {shared} {queue}"));
    io::stdin().read_to_end(&mut Vec::new())?;
    black_box((&memory, &writable, &file));
    drop(held);
    Ok(())
}

/// Says the secret to whoever connects.
fn greet(listener: UnixListener, secret: Vec<u8>) {
    drop(thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            stream.write_all(&secret).ok();
        }
    }));
}

/// One page, marked to be gone with this process; until then its id still opens it.
fn shared_memory(secret: &[u8]) -> io::Result<c_long> {
    let id = call(libc::SYS_shmget, [c_long::from(libc::IPC_PRIVATE), 4096, MODE])?;
    let at = call(libc::SYS_shmat, [id, 0, 0])?;
    // SAFETY: the page is this process's own and longer than a secret.
    unsafe { std::ptr::copy_nonoverlapping(secret.as_ptr(), at as *mut u8, secret.len().min(64)) };
    done(libc::SYS_shmctl, [id, libc::IPC_RMID.into(), 0])?;
    Ok(id)
}

/// A message queue with the secret in it, removed when it is dropped.
struct Queue {
    name: String,
    _open: OwnedFd,
}

impl Queue {
    fn make(name: &str, secret: &[u8]) -> io::Result<Self> {
        // struct mq_attr: flags, maxmsg, msgsize, curmsgs, and four reserved.
        let attributes: [c_long; 8] = [0, 2, 256, 0, 0, 0, 0, 0];
        let path = c_text(name)?;
        let flags = c_long::from(libc::O_RDWR | libc::O_CREAT | libc::O_EXCL);
        let open = descriptor(libc::SYS_mq_open, [text(&path), flags, MODE, pointer(&attributes)])?;
        let len = c_long::try_from(secret.len()).unwrap_or(0);
        let from = secret.as_ptr() as c_long;
        done(libc::SYS_mq_timedsend, [open.as_raw_fd().into(), from, len, 0, 0])?;
        Ok(Self { name: name.to_owned(), _open: open })
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        if let Ok(path) = c_text(&self.name) {
            done(libc::SYS_mq_unlink, [text(&path)]).ok();
        }
    }
}

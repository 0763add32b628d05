//! A network of its own for the calling thread and what it starts: only `lo`, with the addresses of metadata services.

use std::mem::zeroed;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// linux/ipv6.h: `struct in6_ifreq`.
#[repr(C)]
struct In6Ifreq {
    address: [u8; 16],
    prefix: u32,
    index: i32,
}

/// What listens where a cloud's metadata service does; held by the caller.
pub(crate) fn enter() -> [TcpListener; 2] {
    // SAFETY: unsafe only for CLONE_FILES in a process with threads.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
    change("lo", libc::SIOCSIFFLAGS, |request| {
        request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP).unwrap();
    });
    change("lo:0", libc::SIOCSIFADDR, |request| {
        // SAFETY: sockaddr and sockaddr_in share their first field, and both fit into the union.
        let address =
            unsafe { &mut *(&raw mut request.ifr_ifru.ifru_addr).cast::<libc::sockaddr_in>() };
        address.sin_family = libc::sa_family_t::try_from(libc::AF_INET).unwrap();
        address.sin_addr.s_addr = u32::from_ne_bytes([169, 254, 169, 254]);
    });
    let socket = UdpSocket::bind("[::1]:0").unwrap();
    let address = "fd00:ec2::254".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let request = In6Ifreq { address, prefix: 128, index: 1 };
    // SAFETY: the request is the structure that this ioctl reads.
    let done =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFADDR as _, &raw const request) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    ["169.254.169.254:80", "[fd00:ec2::254]:80"].map(listen)
}

/// An address can be used a moment after it was given.
fn listen(at: &str) -> TcpListener {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match TcpListener::bind(at) {
            Err(error) if Instant::now() > deadline => panic!("{at}: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
            Ok(listener) => return listener,
        }
    }
}

fn change(name: &str, what: libc::c_ulong, fill: impl FnOnce(&mut libc::ifreq)) {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // SAFETY: plain integers and arrays, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = byte.try_into().unwrap();
    }
    fill(&mut request);
    // SAFETY: the request is the structure that this ioctl reads.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), what as _, &raw const request) };
    assert_eq!(done, 0, "{name}: {}", std::io::Error::last_os_error());
}

//! The way out: every family of sockets, and what might listen on the other side.

use std::ffi::c_long;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixStream};
use std::time::Duration;

use crate::calls::{call, descriptor, done, pointer};
use crate::{argument, missed, number, say};

/// A connection to this machine takes no time; one that is dropped on its way must not hold up a whole list.
const TIMEOUT: Duration = Duration::from_millis(500);

pub(crate) fn run(attack: &str, args: &[&str]) -> Option<io::Result<()>> {
    Some(match attack {
        "tcp" => number(args, 0).and_then(tcp),
        "udp" => number(args, 0).and_then(udp),
        "unix" => argument(args, 0).and_then(|path| greeting(UnixStream::connect(path)?)),
        "abstract" => argument(args, 0).and_then(|name| {
            greeting(UnixStream::connect_addr(&UnixAddr::from_abstract_name(name)?)?)
        }),
        "inet" => socket(libc::AF_INET, libc::SOCK_STREAM, 0).map(|_| ()),
        "inet6" => socket(libc::AF_INET6, libc::SOCK_STREAM, 0).map(|_| ()),
        "pair" => UnixStream::pair().map(|_| ()),
        "vsock" => socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0).map(|_| ()),
        "kernel_crypto" => socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0).map(|_| ()),
        "audit" => socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_AUDIT).map(|_| ()),
        "links" => links(),
        "packet" => packet(),
        "icmp" => icmp(),
        _ => return None,
    })
}

fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    descriptor(libc::SYS_socket, [family.into(), kind.into(), protocol.into()])
}

fn tcp(address: SocketAddr) -> io::Result<()> {
    TcpStream::connect_timeout(&address, TIMEOUT).map(|_| ())
}

/// Works if the datagram leaves: the way that names are looked up, and bytes carried off.
fn udp(address: SocketAddr) -> io::Result<()> {
    let any: SocketAddr =
        if address.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    UdpSocket::bind(any)?.send_to(b"hotcell", address).map(|_| ())
}

/// Prints what the other side says first.
fn greeting(mut stream: UnixStream) -> io::Result<()> {
    let mut bytes = [0; 64];
    let len = stream.read(&mut bytes)?;
    say(&String::from_utf8_lossy(bytes.get(..len).unwrap_or_default()));
    Ok(())
}

/// Asks the kernel for its network interfaces; works if one of them is up.
fn links() -> io::Result<()> {
    let socket = socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
    // struct nlmsghdr: 20 bytes, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP; then struct rtgenmsg.
    let request: [u32; 5] = [20, 18 | (0x301 << 16), 1, 0, 0];
    let fd = c_long::from(socket.as_raw_fd());
    done(libc::SYS_sendto, [fd, pointer(&request), 20, 0, 0, 0])?;
    let mut answer = [0_u32; 4096];
    let to = answer.as_mut_ptr() as c_long;
    let len = call(libc::SYS_recvfrom, [fd, to, 16384, 0, 0, 0])?;
    let words = answer.get(..usize::try_from(len / 4).unwrap_or(0)).unwrap_or_default();
    // Messages follow each other: length, type; `ifi_flags` is the seventh word.
    let (mut at, mut up) = (0_usize, false);
    while let (Some(size), Some(flags)) = (words.get(at), words.get(at + 6)) {
        up |= flags & 1 != 0;
        at += usize::try_from(size.div_ceil(4).max(1)).unwrap_or(1);
    }
    if up { Ok(()) } else { missed() }
}

/// A frame past every protocol, on the one interface that every machine has.
fn packet() -> io::Result<()> {
    /// For local experiments: IEEE 802.
    const KIND: u16 = 0x88b5;
    let socket = socket(libc::AF_PACKET, libc::SOCK_DGRAM, i32::from(KIND.to_be()))?;
    // struct sockaddr_ll: family and protocol, index 1, no hardware address.
    let family = u32::try_from(libc::AF_PACKET).unwrap_or(0);
    let to: [u32; 5] = [family | (u32::from(KIND.to_be()) << 16), 1, 6 << 24, 0, 0];
    let frame = [0_u8; 64];
    let fd = socket.as_raw_fd().into();
    done(libc::SYS_sendto, [fd, pointer(&frame), 64, 0, pointer(&to), 20])
}

/// A packet of its own making to this machine.
fn icmp() -> io::Result<()> {
    let socket = socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)?;
    // Echo request with its checksum; then struct sockaddr_in of 127.0.0.1.
    let (echo, to) =
        ([8_u8, 0, 0xf7, 0xff, 0, 0, 0, 0], [2_u8, 0, 0, 0, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    let fd = socket.as_raw_fd().into();
    done(libc::SYS_sendto, [fd, pointer(&echo), 8, 0, pointer(&to), 16])
}

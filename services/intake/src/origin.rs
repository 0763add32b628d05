//! Whence a request came. Promises: the address is the socket's own peer, or, behind a proxy that
//! the operator named, the last address in `X-Forwarded-For` that no such proxy has. Refuses: to
//! believe that header from anyone else; what is malformed is no address, never a guess.

use hotcell_schemas::network::Network;
use http::{HeaderMap, HeaderValue};
use std::net::{IpAddr, SocketAddr};

/// The socket's other end; put into each request by the listener.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// The header that proxies append to.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// Hops that are looked at. A chain of proxies has a handful; a client may write what it likes
/// before them.
const HOPS_MAX: usize = 32;

/// The address that a request came from; nothing where that cannot be told.
#[must_use]
pub fn origin(peer: Option<IpAddr>, headers: &HeaderMap, trusted: &[Network]) -> Option<IpAddr> {
    let peer = peer?.to_canonical();
    let known = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    if !known(peer) {
        return Some(peer);
    }
    let values = headers.get_all(FORWARDED_FOR).iter().map(HeaderValue::as_bytes);
    let hops: Vec<_> = values.flat_map(|value| value.split(|byte| *byte == b',')).collect();
    let mut last = peer;
    for hop in hops.iter().rev().take(HOPS_MAX) {
        // Only hops that are looked at must read: before them a client writes what it likes.
        let hop = std::str::from_utf8(hop).ok()?;
        last = hop.trim().parse::<IpAddr>().ok()?.to_canonical();
        if !known(last) {
            return Some(last);
        }
    }
    (hops.len() <= HOPS_MAX).then_some(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(peer: &str, forwarded: &[&str], expect: Option<&str>) {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append(FORWARDED_FOR, value.parse().unwrap());
        }
        let trusted = ["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        let found = origin(Some(peer.parse().unwrap()), &headers, &trusted);
        assert_eq!(found, expect.map(|text| text.parse().unwrap()), "{peer} {forwarded:?}");
    }

    #[test]
    fn step_11_the_header_counts_only_behind_a_named_proxy() {
        check("192.0.2.7", &[], Some("192.0.2.7"));
        check("192.0.2.7", &["203.0.113.9"], Some("192.0.2.7"));
        check("::ffff:192.0.2.7", &["203.0.113.9"], Some("192.0.2.7"));
        check("10.1.2.3", &["203.0.113.9"], Some("203.0.113.9"));
        check("10.1.2.3", &["198.51.100.1, 203.0.113.9"], Some("203.0.113.9"));
        check("10.1.2.3", &["203.0.113.9, 10.9.9.9"], Some("203.0.113.9"));
        check("10.1.2.3", &["198.51.100.1", "203.0.113.9, 2001:db8::1"], Some("203.0.113.9"));
        check("10.1.2.3", &[], Some("10.1.2.3"));
        check("10.1.2.3", &["10.9.9.9"], Some("10.9.9.9"));
        for bad in ["", "unknown", "203.0.113.9:80", "203.0.113.9,", "203.0.113.9 198.51.100.1"] {
            check("10.1.2.3", &[bad], None);
        }
        check("10.1.2.3", &[&"10.9.9.9,".repeat(HOPS_MAX + 1)], None);
        let long = format!("{}10.9.9.9", "10.9.9.9,".repeat(HOPS_MAX));
        check("10.1.2.3", &[&long], None);
    }

    /// What a client writes before its proxy cannot hide its address from policies and limits.
    #[test]
    fn step_11_a_client_cannot_hide_behind_an_unreadable_header() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let address = |text: &str| Some(text.parse().unwrap());
        for (value, expect) in [
            (&b"\xff\xfe, 203.0.113.9"[..], address("203.0.113.9")),
            (b"\xff, 203.0.113.9, 10.9.9.9", address("203.0.113.9")),
            (b"203.0.113.9, \xff", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.append(FORWARDED_FOR, HeaderValue::from_bytes(value).unwrap());
            assert_eq!(origin(address("10.1.2.3"), &headers, &trusted), expect, "{value:?}");
        }
    }

    #[test]
    fn without_a_socket_nothing_is_known() {
        assert_eq!(origin(None, &HeaderMap::new(), &[]), None);
    }
}

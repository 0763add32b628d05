//! Which addresses a delivery may reach. Pure.
//!
//! Promises: only addresses that are globally routable unicast. Refuses: everything that the IANA
//! special-purpose registries (RFC 6890 and its updates) keep for other uses, and every form that
//! embeds an IPv4 address in an IPv6 one, since the embedded one may be anything.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPv4 blocks that are not globally reachable unicast: network and prefix length.
const REFUSED_V4: [([u8; 4], u32); 16] = [
    ([0, 0, 0, 0], 8),       // "this network", RFC 791
    ([10, 0, 0, 0], 8),      // private, RFC 1918
    ([100, 64, 0, 0], 10),   // carrier-grade NAT, RFC 6598
    ([127, 0, 0, 0], 8),     // loopback, RFC 1122
    ([169, 254, 0, 0], 16),  // link-local, RFC 3927; cloud metadata lives here
    ([172, 16, 0, 0], 12),   // private, RFC 1918
    ([192, 0, 0, 0], 24),    // protocol assignments, RFC 6890
    ([192, 0, 2, 0], 24),    // documentation, RFC 5737
    ([192, 31, 196, 0], 24), // AS112, RFC 7535
    ([192, 52, 193, 0], 24), // AMT, RFC 7450
    ([192, 88, 99, 0], 24),  // 6to4 relays, RFC 7526
    ([192, 168, 0, 0], 16),  // private, RFC 1918
    ([198, 18, 0, 0], 15),   // benchmarks, RFC 2544
    ([198, 51, 100, 0], 24), // documentation, RFC 5737
    ([203, 0, 113, 0], 24),  // documentation, RFC 5737
    ([224, 0, 0, 0], 3),     // multicast, reserved and broadcast, RFC 1112
];

/// IPv6 blocks inside 2000::/3 that are not globally reachable unicast.
const REFUSED_V6: [([u16; 8], u32); 4] = [
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), // protocol assignments: Teredo, ORCHID, RFC 2928
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), // documentation, RFC 3849
    ([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), // 6to4: embeds an IPv4 address, RFC 3056
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), // documentation, RFC 9637
];

/// The only IPv6 block that is handed out as global unicast (RFC 4291 §2.4, IANA registry). NAT64,
/// IPv4-mapped, unique local, link-local and multicast addresses are all outside.
const GLOBAL_V6: ([u16; 8], u32) = ([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

/// Whether `address` is a globally routable unicast address.
#[must_use]
pub fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !REFUSED_V4.iter().any(|block| in_v4(v4, *block)),
        IpAddr::V6(v6) => in_v6(v6, GLOBAL_V6) && !REFUSED_V6.iter().any(|block| in_v6(v6, *block)),
    }
}

fn in_v4(address: Ipv4Addr, (network, prefix): ([u8; 4], u32)) -> bool {
    let shift = 32 - prefix;
    address.to_bits() >> shift == u32::from_be_bytes(network) >> shift
}

fn in_v6(address: Ipv6Addr, (network, prefix): ([u16; 8], u32)) -> bool {
    let shift = 128 - prefix;
    address.to_bits() >> shift == Ipv6Addr::from(network).to_bits() >> shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_is_refused_at_both_ends_and_its_neighbours_are_not() {
        let check = |text: &str, expect: bool| {
            assert_eq!(is_global(text.parse().unwrap()), expect, "{text}");
        };
        for (from, to) in [
            ("0.0.0.0", "0.255.255.255"),
            ("10.0.0.0", "10.255.255.255"),
            ("100.64.0.0", "100.127.255.255"),
            ("127.0.0.0", "127.255.255.255"),
            ("169.254.0.0", "169.254.255.255"),
            ("172.16.0.0", "172.31.255.255"),
            ("192.0.0.0", "192.0.0.255"),
            ("192.168.0.0", "192.168.255.255"),
            ("198.18.0.0", "198.19.255.255"),
            ("224.0.0.0", "255.255.255.255"),
        ] {
            check(from, false);
            check(to, false);
            let bits = |text: &str| text.parse::<Ipv4Addr>().unwrap().to_bits();
            let outside = [bits(from).checked_sub(1), bits(to).checked_add(1)];
            for bits in outside.into_iter().flatten().map(Ipv4Addr::from) {
                // 191.255.255.255 and 128.0.0.0 are ordinary; 223.255.255.255 is the last.
                check(&bits.to_string(), true);
            }
        }
    }

    #[test]
    fn well_known_targets() {
        let check = |text: &str, expect: bool| {
            assert_eq!(is_global(text.parse().unwrap()), expect, "{text}");
        };
        for good in ["1.1.1.1", "8.8.8.8", "93.184.216.34", "2606:4700::1111", "2a00:1450::1"] {
            check(good, true);
        }
        for bad in [
            "169.254.169.254",    // cloud metadata
            "100.100.100.200",    // cloud metadata inside carrier-grade NAT
            "192.0.0.192",        // cloud metadata
            "255.255.255.255",    // broadcast
            "192.0.2.1",          // documentation
            "198.51.100.7",       // documentation
            "203.0.113.7",        // documentation
            "192.88.99.1",        // 6to4 relay
            "::",                 // unspecified
            "::1",                // loopback
            "::127.0.0.1",        // IPv4-compatible
            "::ffff:127.0.0.1",   // IPv4-mapped
            "::ffff:8.8.8.8",     // IPv4-mapped, even of a global one
            "64:ff9b::a9fe:a9fe", // NAT64 of the metadata address
            "64:ff9b:1::1",       // local NAT64
            "100::1",             // discard
            "2001::1",            // Teredo
            "2001:20::1",         // ORCHID
            "2001:db8::1",        // documentation
            "2002:7f00:1::1",     // 6to4 of loopback
            "3fff::1",            // documentation
            "5f00::1",            // segment routing
            "fc00::1",            // unique local
            "fd00:ec2::254",      // cloud metadata
            "fe80::1",            // link-local
            "fec0::1",            // site-local
            "ff02::1",            // multicast
        ] {
            check(bad, false);
        }
    }
}

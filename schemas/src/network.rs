//! IP networks in CIDR notation (RFC 4632 §3.1, RFC 4291 §2.3).
//!
//! Promises: one written form for each network. Refuses host bits that are set, prefixes that are
//! too long, and names. An IPv4 address mapped into IPv6 counts as the IPv4 address.

use serde::{Deserialize, Serialize};
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// Why a text is not a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// Not `address/bits`.
    #[error("a network must be written as address/bits, as 10.0.0.0/8 or 2001:db8::/32")]
    Form,
    /// Too many bits.
    #[error("the prefix must be at most 32 bits for IPv4 and 128 for IPv6")]
    Bits,
    /// An address inside a network, not the network.
    #[error("the bits after the prefix must be zero")]
    HostBits,
}

/// A network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Whether `address` is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(found)) => masked4(found, self.bits) == net,
            (IpAddr::V6(net), IpAddr::V6(found)) => masked6(found, self.bits) == net,
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }

    /// Whether every address of `other` is in it.
    #[must_use]
    pub fn holds(&self, other: &Self) -> bool {
        self.bits <= other.bits && self.contains(other.address)
    }
}

fn masked4(address: Ipv4Addr, bits: u8) -> Ipv4Addr {
    let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
    Ipv4Addr::from_bits(address.to_bits() & mask)
}

fn masked6(address: Ipv6Addr, bits: u8) -> Ipv6Addr {
    let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
    Ipv6Addr::from_bits(address.to_bits() & mask)
}

impl FromStr for Network {
    type Err = NetworkError;
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, bits) = text.split_once('/').ok_or(NetworkError::Form)?;
        let address: IpAddr = address.parse().map_err(|_| NetworkError::Form)?;
        if bits.is_empty() || !bits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(NetworkError::Form);
        }
        let bits: u8 = bits.parse().map_err(|_| NetworkError::Bits)?;
        let (address, bits) = match address {
            // Addresses count as IPv4 where they can, so this one would hold none.
            IpAddr::V6(v6) if (96..=128).contains(&bits) => {
                let mapped = v6.to_ipv4_mapped().map(|v4| (IpAddr::V4(v4), bits - 96));
                mapped.unwrap_or((address, bits))
            }
            IpAddr::V4(_) | IpAddr::V6(_) => (address, bits),
        };
        let (most, masked) = match address {
            IpAddr::V4(v4) => (32, IpAddr::V4(masked4(v4, bits.min(32)))),
            IpAddr::V6(v6) => (128, IpAddr::V6(masked6(v6, bits.min(128)))),
        };
        if bits > most {
            return Err(NetworkError::Bits);
        }
        if masked != address {
            return Err(NetworkError::HostBits);
        }
        Ok(Self { address, bits })
    }
}

impl TryFrom<String> for Network {
    type Error = NetworkError;
    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_39_a_network_holds_its_addresses_and_no_other() {
        let check = |network: &str, address: &str, expect: bool| {
            let network: Network = network.parse().unwrap();
            assert_eq!(network.contains(address.parse().unwrap()), expect, "{network} {address}");
        };
        let holds =
            |one: &str, other: &str| one.parse::<Network>().unwrap().holds(&other.parse().unwrap());
        assert!(holds("10.0.0.0/8", "10.0.0.0/8") && holds("10.0.0.0/8", "10.1.0.0/16"));
        assert!(!holds("10.0.0.0/8", "10.0.0.0/7") && !holds("10.0.0.0/8", "11.0.0.0/16"));
        assert!(!holds("0.0.0.0/0", "::/0") && !holds("::/0", "10.0.0.0/8"));
        check("10.0.0.0/8", "10.255.0.1", true);
        check("10.0.0.0/8", "11.0.0.1", false);
        check("10.0.0.0/8", "::ffff:10.1.2.3", true);
        check("0.0.0.0/0", "203.0.113.9", true);
        check("0.0.0.0/0", "::1", false);
        check("::ffff:10.0.0.0/104", "10.1.2.3", true);
        check("::ffff:10.0.0.0/104", "::ffff:10.1.2.3", true);
        check("::ffff:10.0.0.0/104", "11.1.2.3", false);
        check("::ffff:0.0.0.0/96", "203.0.113.9", true);
        check("::ffff:203.0.113.9/128", "203.0.113.8", false);
        check("203.0.113.9/32", "203.0.113.9", true);
        check("203.0.113.9/32", "203.0.113.8", false);
        check("2001:db8::/32", "2001:db8:1::1", true);
        check("2001:db8::/32", "2001:db9::1", false);
        check("::/0", "2001:db9::1", true);
        check("::1/128", "::1", true);
    }

    #[test]
    fn one_form_is_a_network() {
        let check = |text: &str, expect| assert_eq!(text.parse::<Network>(), Err(expect), "{text}");
        check("10.0.0.0", NetworkError::Form);
        check("10.0.0.0/", NetworkError::Form);
        check("10.0.0.0/+8", NetworkError::Form);
        check("example.com/8", NetworkError::Form);
        check("10.0.0.0/33", NetworkError::Bits);
        check("::/129", NetworkError::Bits);
        check("10.0.0.0/999", NetworkError::Bits);
        check("10.0.0.1/8", NetworkError::HostBits);
    }
}

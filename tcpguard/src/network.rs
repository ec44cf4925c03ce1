//! A network as the lists store it, ordered so that a network precedes those it contains.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use ipnet::IpNet;
use tcpguard_common::{
    abi::{outline, rule::CACHED_LENGTHS},
    address::Address,
};
use thiserror::Error;

/// The length of the prefix of IPv4-mapped IPv6 addresses, which is added to the length of an IPv4 prefix.
const IPV4_BITS: u8 = 96;
/// The shortest IPv4 and IPv6 prefixes that may be denied without `--force`.
const WIDEST_DENY: (u8, u8) = (8, 16);

/// A network: an IPv6 prefix, or an IPv4 prefix mapped to IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
// There may be half a million: aligned to 16 bytes, each would take a third more memory.
#[repr(C, packed(8))]
pub struct Network {
    first: u128,
    length: u8,
}

/// The text is not a network.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("\"{0}\" is not a network: expected an address or a CIDR prefix such as 198.51.100.0/24")]
pub struct NotANetwork(String);

impl Network {
    /// All addresses.
    pub const EVERYTHING: Self = Self { first: 0, length: 0 };
    /// All IPv4 addresses, mapped to IPv6.
    const ALL_IPV4: Self = Self { first: 0xffff << 32, length: IPV4_BITS };

    /// Returns the first address.
    pub fn first(self) -> Address {
        IpAddr::V6(Ipv6Addr::from(self.first)).into()
    }

    /// Returns the prefix length in bits; 96 is added for an IPv4 prefix.
    pub const fn length(self) -> u8 {
        self.length
    }

    /// Returns `true` if it contains all of `other`.
    pub const fn contains(self, other: Self) -> bool {
        self.length <= other.length && other.first & mask(self.length) == self.first
    }

    /// Returns the network of `length` bits that contains it.
    #[must_use]
    pub const fn widened(self, length: u8) -> Self {
        Self { first: self.first & mask(length), length }
    }

    /// Returns the last network that it contains, in their order: that of its last address.
    #[must_use]
    pub const fn last(self) -> Self {
        Self { first: self.first | !mask(self.length), length: 128 }
    }

    /// Returns the network that consists of `address` alone.
    pub fn of(address: Address) -> Self {
        IpNet::from(IpAddr::from(address)).into()
    }

    /// Returns the network that contains `address`; `lengths` are the prefix lengths for IPv4 and IPv6.
    pub fn at(address: Address, lengths: (u8, u8)) -> Self {
        let length = if address.is_ipv4() { IPV4_BITS + lengths.0.min(32) } else { lengths.1.min(128) };
        Self::of(address).widened(length)
    }

    /// Returns `true` if the datapath may cache one rule for whole /24 or /64 networks within it.
    pub fn is_cached_whole(self) -> bool {
        let (ipv4, ipv6) = CACHED_LENGTHS;
        self.length <= if self.first().is_ipv4() { ipv4 } else { ipv6 }
    }

    /// Returns `true` if all of its addresses are IPv4 addresses.
    pub const fn is_within_ipv4(self) -> bool {
        Self::ALL_IPV4.contains(self)
    }

    /// Returns the numbers of the first and the last /24 among its addresses ([`tcpguard_common::abi::outline::block`]);
    /// `None` if it contains no IPv4 address.
    pub fn ipv4_blocks(self) -> Option<(u32, u32)> {
        let block = |network: Self| outline::block(network.first());
        let ipv4 = if self.contains_ipv4() { Self::ALL_IPV4 } else { self };
        ipv4.is_within_ipv4().then(|| (block(ipv4), block(ipv4.last())))
    }

    /// Returns `true` if it contains all IPv4-mapped addresses.
    pub const fn contains_ipv4(self) -> bool {
        self.contains(Self::ALL_IPV4)
    }

    /// Returns `true` if it is so wide that denying it requires `--force`.
    pub fn is_too_wide(self) -> bool {
        if self.contains_ipv4() {
            return true;
        }
        let net = IpNet::from(self);
        net.prefix_len() < if net.addr().is_ipv4() { WIDEST_DENY.0 } else { WIDEST_DENY.1 }
    }
}

const fn mask(length: u8) -> u128 {
    match length {
        0 => 0,
        1..=127 => u128::MAX << (128 - length),
        _ => u128::MAX,
    }
}

impl From<IpNet> for Network {
    fn from(net: IpNet) -> Self {
        let (first, length) = match net.trunc() {
            IpNet::V4(net) => (net.addr().to_ipv6_mapped(), IPV4_BITS + net.prefix_len()),
            IpNet::V6(net) => (net.addr(), net.prefix_len()),
        };
        Self { first: first.into(), length }
    }
}

impl From<Network> for IpNet {
    fn from(network: Network) -> Self {
        let first = Ipv6Addr::from(network.first);
        let ipv4 = first.to_ipv4_mapped().filter(|_| network.length >= IPV4_BITS);
        let net = match ipv4 {
            Some(ipv4) => Self::new(ipv4.into(), network.length - IPV4_BITS),
            None => Self::new(first.into(), network.length),
        };
        net.unwrap_or_else(|_| Self::from(IpAddr::from(first)))
    }
}

impl FromStr for Network {
    type Err = NotANetwork;

    /// Parses an address, which stands for a network of one, or a CIDR prefix, whose host bits are ignored.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        net.map(Self::from).map_err(|_| NotANetwork(text.chars().take(64).collect()))
    }
}

impl fmt::Display for Network {
    /// Formats the network as a CIDR prefix, or as an address if it contains only one.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let net = IpNet::from(*self);
        if net.prefix_len() == net.max_prefix_len() { net.addr().fmt(formatter) } else { net.fmt(formatter) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().expect("a network")
    }

    #[test]
    fn text_and_network_are_the_same() {
        for text in ["198.51.100.0/24", "198.51.100.7", "2001:db8::/32", "2001:db8::1", "0.0.0.0/0", "::/0"] {
            assert_eq!(network(text).to_string(), text);
        }
        assert_eq!(network("198.51.100.77/24").to_string(), "198.51.100.0/24");
        assert_eq!(network("::ffff:198.51.100.7"), network("198.51.100.7"));
        for bad in ["", "198.51.100", "198.51.100.0/33", "2001:db8::/129", "a/24", "198.51.100.0/-1"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    #[test]
    fn who_contains_comes_first() {
        let (wide, narrow) = (network("198.51.0.0/16"), network("198.51.0.0/24"));
        assert!(wide < narrow && wide.contains(narrow) && !narrow.contains(wide));
        assert!(network("0.0.0.0/0").contains(network("203.0.113.9")));
        assert!(!network("0.0.0.0/0").contains(network("2001:db8::1")));
        assert!(network("::/0").contains(network("2001:db8::1")));
        assert!(wide.last() > network("198.51.255.255/32") || wide.last() == network("198.51.255.255/32"));
    }

    #[test]
    fn a_network_consists_of_24s() {
        let blocks = |text| network(text).ipv4_blocks();
        assert_eq!(blocks("198.18.5.7"), Some((0xc6_1205, 0xc6_1205)));
        assert_eq!(blocks("198.18.0.0/16"), Some((0xc6_1200, 0xc6_12ff)));
        assert_eq!((blocks("0.0.0.0/0"), blocks("::/0")), (Some((0, 0xff_ffff)), Some((0, 0xff_ffff))));
        assert_eq!((blocks("2001:db8::/32"), blocks("::/97"), blocks("8000::/1")), (None, None, None));
    }

    #[test]
    fn what_shuts_out_too_many_is_told() {
        for wide in ["0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/7", "::/0", "2000::/3", "::/64", "::/80"] {
            assert!(network(wide).is_too_wide(), "{wide}");
        }
        for narrow in ["10.0.0.0/8", "198.51.100.0/24", "2001:db8::/32", "198.51.100.1"] {
            assert!(!network(narrow).is_too_wide(), "{narrow}");
        }
    }
}

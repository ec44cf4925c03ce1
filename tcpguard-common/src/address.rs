//! IPv4 and IPv6 addresses and prefixes. An IPv4 address is stored as an IPv4-mapped IPv6 address
//! (`::ffff:a.b.c.d`, RFC 4291 2.5.5.2), so that all code behind the parser handles a single type.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::wire::Be16;

/// An IPv4 or IPv6 address in network byte order, as two words that are fast to hash and compare.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Address {
    words: [u64; 2],
}

/// The second word of an IPv4-mapped address, with the IPv4 address cleared: `::ffff:0:0`.
const IPV4_MARK: u64 = u64::from_ne_bytes([0, 0, 0xff, 0xff, 0, 0, 0, 0]);
const IPV4_MARK_MASK: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);

impl Address {
    /// Creates an address from the address field of an IPv4 header.
    #[inline(always)]
    pub fn from_ipv4_fields(fields: [Be16; 2]) -> Self {
        Self { words: [0, word([Be16::new_raw(0), Be16::new_raw(0xffff), fields[0], fields[1]])] }
    }

    /// Creates an address from the address field of an IPv6 header.
    #[inline(always)]
    pub fn from_ipv6_fields(f: [Be16; 8]) -> Self {
        Self { words: [word([f[0], f[1], f[2], f[3]]), word([f[4], f[5], f[6], f[7]])] }
    }

    /// Creates an address from an IPv4 address as the kernel stores it: four bytes in network byte order, read
    /// as a native integer.
    #[inline(always)]
    pub const fn from_ipv4_be(address: u32) -> Self {
        let bytes = address.to_ne_bytes();
        let low = [0, 0, 0xff, 0xff, bytes[0], bytes[1], bytes[2], bytes[3]];
        Self { words: [0, u64::from_ne_bytes(low)] }
    }

    /// Creates an address from two words in network byte order.
    #[inline(always)]
    pub const fn from_words(words: [u64; 2]) -> Self {
        Self { words }
    }

    /// Returns the address as two words in network byte order.
    #[inline(always)]
    pub const fn words(self) -> [u64; 2] {
        self.words
    }

    /// Returns whether this is an IPv4 address.
    #[inline(always)]
    pub const fn is_ipv4(self) -> bool {
        self.words[0] == 0 && self.words[1] & IPV4_MARK_MASK == IPV4_MARK
    }

    /// Returns the address with all bits cleared that are not set in `mask`.
    #[inline(always)]
    pub const fn masked(self, mask: Self) -> Self {
        Self { words: [self.words[0] & mask.words[0], self.words[1] & mask.words[1]] }
    }

    /// Returns the eight 16-bit fields of the address in an IPv6 header.
    #[inline(always)]
    pub const fn fields(self) -> [Be16; 8] {
        let (high, low) = (split(self.words[0]), split(self.words[1]));
        [high[0], high[1], high[2], high[3], low[0], low[1], low[2], low[3]]
    }

    /// Returns the two 16-bit fields of the address in an IPv4 header.
    #[inline(always)]
    pub const fn ipv4_fields(self) -> [Be16; 2] {
        let [_, _, high, low] = split(self.words[1]);
        [high, low]
    }

    /// Returns the sum of the address's words for a checksum ([`crate::checksum`]). The words that mark an IPv4
    /// address add nothing: 0xffff is zero in ones' complement.
    #[inline(always)]
    pub const fn sum(self) -> u32 {
        const fn halves(word: u64) -> u64 {
            (word & 0xffff_ffff) + (word >> 32)
        }
        let sum = halves(self.words[0]) + halves(self.words[1]);
        // The sum of 32-bit words is folded to 16 bits so that other sums can be added.
        let once = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
        once as u32
    }

    /// Returns the IPv4 address as the kernel stores it: four bytes in network byte order, read as a native
    /// integer.
    #[inline(always)]
    pub const fn ipv4_be(self) -> u32 {
        let [_, _, _, _, a, b, c, d] = self.words[1].to_ne_bytes();
        u32::from_ne_bytes([a, b, c, d])
    }

    /// Returns the 16-bit fields of the address in an IP header; those that an IPv4 header does not have are 0.
    #[inline(always)]
    pub const fn fields_on_wire(self) -> [Be16; 8] {
        let [a, b, c, d, e, f, high, low] = self.fields();
        const NONE: Be16 = Be16::new(0);
        if self.is_ipv4() { [NONE, NONE, NONE, NONE, NONE, NONE, high, low] } else { [a, b, c, d, e, f, high, low] }
    }

    /// Returns the address as four words in network byte order.
    #[inline(always)]
    pub const fn quarters(self) -> [u32; 4] {
        const fn halves(word: u64) -> [u32; 2] {
            let (low, high) = (word as u32, (word >> 32) as u32);
            if cfg!(target_endian = "little") { [low, high] } else { [high, low] }
        }
        let ([first, second], [third, fourth]) = (halves(self.words[0]), halves(self.words[1]));
        [first, second, third, fourth]
    }

    /// Returns the unspecified address of the same family.
    #[inline(always)]
    pub const fn unspecified(self) -> Self {
        if self.is_ipv4() { Self { words: [0, IPV4_MARK] } } else { Self { words: [0, 0] } }
    }

    /// Returns whether a packet from this address may be answered. False for addresses that no remote host has:
    /// 0.0.0.0/8, 127.0.0.0/8, IPv4 addresses from 224.0.0.0, IPv6 multicast, and ::/64.
    #[inline(always)]
    pub const fn may_be_answered(self) -> bool {
        if self.is_ipv4() {
            let first = u32::from_be(self.ipv4_be()) >> 24;
            return first != 0 && first != 127 && first < 224;
        }
        const MULTICAST: u64 = u64::from_ne_bytes([0xff, 0, 0, 0, 0, 0, 0, 0]);
        // The first word of the unspecified address and of the loopback address (::1) is zero.
        self.words[0] != 0 && self.words[0] & MULTICAST != MULTICAST
    }

    /// Returns whether the address is link-local (fe80::/10): valid on one link only, so that several
    /// interfaces may have the same address.
    #[inline(always)]
    pub const fn is_link_local(self) -> bool {
        const MASK: u64 = u64::from_ne_bytes([0xff, 0xc0, 0, 0, 0, 0, 0, 0]);
        const PREFIX: u64 = u64::from_ne_bytes([0xfe, 0x80, 0, 0, 0, 0, 0, 0]);
        self.words[0] & MASK == PREFIX
    }

    /// Returns the sixteen bytes in network byte order.
    pub const fn octets(self) -> [u8; 16] {
        let high = self.words[0].to_ne_bytes();
        let low = self.words[1].to_ne_bytes();
        let mut octets = [0; 16];
        let mut index = 0;
        while index < 8 {
            octets[index] = high[index];
            octets[index + 8] = low[index];
            index += 1;
        }
        octets
    }
}

#[inline(always)]
const fn word(fields: [Be16; 4]) -> u64 {
    if cfg!(target_endian = "little") {
        fields[0].raw() as u64
            | (fields[1].raw() as u64) << 16
            | (fields[2].raw() as u64) << 32
            | (fields[3].raw() as u64) << 48
    } else {
        fields[3].raw() as u64
            | (fields[2].raw() as u64) << 16
            | (fields[1].raw() as u64) << 32
            | (fields[0].raw() as u64) << 48
    }
}

#[inline(always)]
const fn split(word: u64) -> [Be16; 4] {
    let [first, second, third, fourth] = [word as u16, (word >> 16) as u16, (word >> 32) as u16, (word >> 48) as u16];
    let fields =
        if cfg!(target_endian = "little") { [first, second, third, fourth] } else { [fourth, third, second, first] };
    [Be16::new_raw(fields[0]), Be16::new_raw(fields[1]), Be16::new_raw(fields[2]), Be16::new_raw(fields[3])]
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        let octets = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        };
        let (high, low) = octets.split_at(8);
        let word = |half: &[u8]| half.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        Self { words: [u64::from_le(word(high)), u64::from_le(word(low))] }
    }
}

impl From<Ipv4Addr> for Address {
    fn from(address: Ipv4Addr) -> Self {
        IpAddr::V4(address).into()
    }
}

impl From<Ipv6Addr> for Address {
    fn from(address: Ipv6Addr) -> Self {
        IpAddr::V6(address).into()
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        Ipv6Addr::from(address.octets()).to_canonical()
    }
}

impl core::fmt::Display for Address {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        IpAddr::from(*self).fmt(formatter)
    }
}

/// Returns the mask of a prefix of `length` bits (0 to 128; greater values count as 128). The length of an IPv4
/// prefix is 96 bits greater.
pub const fn prefix_mask(length: u8) -> Address {
    Address { words: [mask_word(length), mask_word(length.saturating_sub(64))] }
}

const fn mask_word(length: u8) -> u64 {
    match length {
        0 => 0,
        1..=63 => (u64::MAX << (64 - length)).to_be(),
        _ => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().expect("an address").into()
    }

    #[test]
    fn addresses_survive_the_round_trip() {
        for text in ["198.18.0.1", "255.255.255.255", "0.0.0.0", "2001:db8::1", "::1", "fe80::ff:fe00:1"] {
            assert_eq!(address(text).to_string(), text);
        }
    }

    #[test]
    fn ipv4_is_told_from_ipv6() {
        assert!(address("198.18.0.1").is_ipv4());
        assert!(!address("2001:db8::1").is_ipv4());
        assert!(!address("::").is_ipv4());
    }

    #[test]
    fn the_kernels_form_is_understood() {
        let kernel = u32::from_ne_bytes([198, 18, 0, 9]);
        assert_eq!(Address::from_ipv4_be(kernel), address("198.18.0.9"));
    }

    #[test]
    fn networks_are_cut_at_the_prefix() {
        for (text, length, network) in [
            ("198.18.7.9", 96 + 24, "198.18.7.0"),
            ("198.18.31.9", 96 + 20, "198.18.16.0"),
            ("198.18.31.9", 96 + 32, "198.18.31.9"),
            ("2001:db8:1:2:3:4:5:6", 64, "2001:db8:1:2::"),
            ("2001:db8:1:2ff::1", 56, "2001:db8:1:200::"),
            ("2001:db8::9", 128, "2001:db8::9"),
            ("2001:db8:1:2:3:4:5:6", 72, "2001:db8:1:2::"),
            ("2001:db8::9", 0, "::"),
        ] {
            assert_eq!(address(text).masked(prefix_mask(length)), address(network), "{text}/{length}");
        }
    }

    #[test]
    fn what_no_remote_host_has_is_not_answered() {
        let answered =
            ["1.0.0.0", "126.255.255.255", "128.0.0.0", "223.255.255.255", "2001:db8::1", "fe80::1", "0:0:0:1::"];
        let not = [
            "0.0.0.0",
            "0.255.255.255",
            "127.0.0.1",
            "127.255.0.0",
            "224.0.0.0",
            "255.255.255.255",
            "::",
            "::1",
            "::2:1",
            "ff00::",
            "ff02::1",
            "ffff:1::",
        ];
        answered.iter().for_each(|text| assert!(address(text).may_be_answered(), "{text}"));
        not.iter().for_each(|text| assert!(!address(text).may_be_answered(), "{text}"));
    }

    #[test]
    fn link_local_is_fe80_to_febf() {
        ["fe80::", "fe80::1", "feb0::1", "febf:ffff::"]
            .iter()
            .for_each(|text| assert!(address(text).is_link_local(), "{text}"));
        ["fe7f::1", "fec0::1", "7e80::1", "ff80::1", "169.254.0.1", "::"]
            .iter()
            .for_each(|text| assert!(!address(text).is_link_local(), "{text}"));
    }

    #[test]
    fn quarters_are_the_bytes_in_their_order() {
        for text in ["198.18.0.1", "2001:db8:1:2:3:4:5:6"] {
            let bytes = address(text).quarters().map(u32::to_ne_bytes).concat();
            assert_eq!(bytes, address(text).octets(), "{text}");
        }
    }

    #[test]
    fn fields_are_the_bytes_in_their_order() {
        let fields = [0x2001, 0x0db8, 1, 2, 3, 0xfffe, 5, 0x8001].map(Be16::new);
        assert_eq!(Address::from_ipv6_fields(fields), address("2001:db8:1:2:3:fffe:5:8001"));
    }
}

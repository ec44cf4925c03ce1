//! The outline of the lists: which addresses may have a rule at all. Most SYNs come from addresses without one, and a few
//! cache lines tell, where a longest-prefix match walks a tree that grows with the lists.
//!
//! | table | holds |
//! | --- | --- |
//! | `LISTED_IPV4` | one bit for each /24: a rule applies to some of its addresses |
//! | `DENIED_IPV4` | one bit for each /24: all of its addresses are denied, until the lists change |
//! | `LISTED_IPV6` | a Bloom filter of the networks of IPv6 rules, cut to one of [`LEVELS`] |

use crate::{
    abi::lease::flag,
    address::{Address, prefix_mask},
    hash,
};

/// The words of each table of IPv4 networks (2 MiB).
pub const IPV4_WORDS: usize = 1 << 18;
/// The words of the filter of IPv6 networks (4 MiB), a power of two: eight bits for each of [`super::rule::MAX_RULES`].
pub const IPV6_WORDS: usize = 1 << 19;

/// The prefix lengths under which IPv6 networks are in the filter, and the flag of the lease that tells whether any is. A
/// network is under the longest that is not longer than its own.
pub const LEVELS: [(u8, u64); 4] =
    [(64, flag::LISTED_64), (48, flag::LISTED_48), (32, flag::LISTED_32), (16, flag::LISTED_16)];

/// Returns the number of the /24 that an IPv4 address belongs to.
#[inline(always)]
pub const fn block(address: Address) -> u32 {
    u32::from_be(address.ipv4_be()) >> 8
}

/// Returns the word of a /24 in a table of IPv4 networks, and its bit.
#[inline(always)]
pub const fn ipv4_place(block: u32) -> (u32, u64) {
    (block / 64, 1 << (block % 64))
}

/// Returns the word of an IPv6 network in the filter, and its bits, of which all are set if the network is in it. `length`
/// is one of [`LEVELS`]. `key` is the one of [`hash`], so that nobody outside can choose addresses that only seem listed.
#[inline(always)]
pub const fn ipv6_place(key: u64, address: Address, length: u8) -> (u32, u64) {
    let hash = hash::address(key, address.masked(prefix_mask(length)));
    let bits = 1 << (hash & 63) | 1 << (hash >> 6 & 63) | 1 << (hash >> 12 & 63);
    ((hash >> 32) as u32 % IPV6_WORDS as u32, bits)
}

/// Returns the level of an IPv6 network of this length and the flag that belongs to it; `None` if it is wider than all of
/// them.
pub fn level(length: u8) -> Option<(u8, u64)> {
    LEVELS.into_iter().find(|(level, _)| *level <= length)
}

#[cfg(test)]
mod tests {
    use core::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().expect("an address").into()
    }

    #[test]
    fn each_24_has_a_bit_of_its_own() {
        assert_eq!(block(address("0.0.0.255")), 0);
        assert_eq!(block(address("198.18.5.7")), 0xc6_1205);
        assert_eq!(block(address("255.255.255.0")), 0xff_ffff);
        let places: Vec<_> = (0..1 << 24).step_by(4099).map(ipv4_place).collect();
        assert!(places.is_sorted() && places.windows(2).all(|two| two[0] != two[1]));
        assert!(places.iter().all(|(word, bit)| (*word as usize) < IPV4_WORDS && bit.count_ones() == 1));
    }

    #[test]
    fn a_network_is_under_the_next_shorter_level() {
        let levels = [128, 64, 63, 48, 47, 32, 31, 16, 15, 0].map(|length| level(length).map(|(level, _)| level));
        let expected = [64, 64, 48, 48, 32, 32, 16, 16].map(Some);
        assert_eq!(levels[..8], expected);
        assert_eq!(levels[8..], [None, None]);
    }

    #[test]
    fn addresses_of_a_network_have_its_place_and_others_seldom() {
        let (inside, other) = (address("2001:db8:1:2:3::4"), address("2001:db8:1:3::"));
        assert_eq!(ipv6_place(9, inside, 64), ipv6_place(9, address("2001:db8:1:2::"), 64));
        assert_ne!(ipv6_place(9, inside, 64), ipv6_place(9, other, 64));
        assert_eq!(ipv6_place(9, inside, 48), ipv6_place(9, other, 48));
        assert_ne!(ipv6_place(9, inside, 64), ipv6_place(10, inside, 64), "the key matters");
    }

    #[test]
    fn a_network_has_three_bits_that_depend_on_it() {
        let place = |number: u64| ipv6_place(7, Address::from_words([u64::to_be(number << 16), 0]), 64);
        let bits: Vec<u32> = (0..1000).map(|number| place(number).1.count_ones()).collect();
        assert!(bits.iter().all(|bits| (1..=3).contains(bits)));
        assert!(bits.iter().filter(|bits| **bits == 3).count() > 900);
        let used = (0..1000).fold(0, |used, number| used | place(number).1);
        assert_eq!(used, u64::MAX);
        for number in 0..1000 {
            let hash = hash::address(7, Address::from_words([u64::to_be(number << 16), 0]));
            let expected =
                [0, 6, 12].map(|shift| 1_u64 << (hash >> shift & 63)).into_iter().fold(0, |all, bit| all | bit);
            assert_eq!(place(number).1, expected);
        }
    }

    #[test]
    fn a_full_filter_lets_few_others_through() {
        let network = |number: u64| Address::from_words([u64::to_be(0x2001_0000_0000_0000 | number << 7), 0]);
        let mut filter = vec![0_u64; IPV6_WORDS];
        for number in 0..500_000 {
            let (word, bits) = ipv6_place(7, network(number), 64);
            filter[word as usize] |= bits;
        }
        let seems_listed = |number: &u64| {
            let (word, bits) = ipv6_place(7, network(*number), 64);
            filter[word as usize] & bits == bits
        };
        assert!((0..500_000).all(|number| seems_listed(&number)));
        let others = (1_000_000..1_100_000).filter(seems_listed).count();
        assert!(others < 300, "{others} of 100,000");
    }

    #[test]
    fn ipv4_addresses_are_numbered_by_their_value() {
        for value in [0, 1 << 8, 0x0102_0304, u32::MAX] {
            assert_eq!(block(Ipv4Addr::from(value).into()), value >> 8);
        }
    }
}

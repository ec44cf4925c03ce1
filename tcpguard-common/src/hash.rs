//! Keyed hashing. The daemon draws the key at random, so that nobody outside can choose addresses that collide.
//! The hash is a 64-bit multiply-and-shift finaliser (splitmix64): BPF has neither 128-bit multiplication nor
//! AES, and helpers cost more than the sketch.

use crate::address::Address;

/// 2^64 divided by the golden ratio: a multiplication by it spreads neighbouring values, where no key is needed.
pub const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;
const FIRST_MULTIPLIER: u64 = 0xbf58_476d_1ce4_e5b9;
const SECOND_MULTIPLIER: u64 = 0x94d0_49bb_1331_11eb;

#[inline(always)]
const fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(FIRST_MULTIPLIER);
    word = (word ^ (word >> 27)).wrapping_mul(SECOND_MULTIPLIER);
    word ^ (word >> 31)
}

/// Mixes a word that depends on the key already. The shift before the multiplication has the uppermost bits reach others
/// too: without it, a difference in bit 63 would stay there, whatever the key.
#[inline(always)]
const fn round(word: u64) -> u64 {
    let product = (word ^ (word >> 32)).wrapping_mul(SECOND_MULTIPLIER);
    product ^ (product >> 32)
}

/// Returns the hash of an address. Its parts select the cells in every structure that is indexed by source.
///
/// Each half is mixed with a secret of its own: the upper one with the key, the lower one with the result. Whoever does not
/// know the key cannot tell which difference of the lower half makes up for one of the upper half. IPv4 addresses have no
/// upper half, and are spared the first step.
#[inline(always)]
pub const fn address(key: u64, address: Address) -> u64 {
    let [high, low] = address.words();
    let secret = if high == 0 { key } else { mix(high ^ key) };
    mix(low ^ secret)
}

/// Returns the hash of the address and port of a client whose address has the hash `source_hash`.
#[inline(always)]
pub const fn client(source_hash: u64, source_port: u16) -> u64 {
    // The source's hash is mixed already: one multiplication spreads the port over the upper bits, and folding brings them
    // down.
    let product = (source_hash ^ source_port as u64).wrapping_mul(FIRST_MULTIPLIER);
    product ^ (product >> 32)
}

/// Returns the hash of the connection of a client, with this hash, to a port of `destination`.
#[inline(always)]
pub const fn connection(client_hash: u64, destination: Address, destination_port: u16) -> u64 {
    let port = destination_port as u64;
    if destination.is_ipv4() {
        return round(client_hash ^ port << 32 ^ destination.ipv4_be() as u64);
    }
    let [high, low] = destination.words();
    round(round(round(client_hash ^ high) ^ low) ^ port)
}

/// Returns the hash of one SYN: of its connection and initial sequence number.
#[inline(always)]
pub const fn syn(connection_hash: u64, sequence: u32) -> u64 {
    mix(connection_hash ^ (sequence as u64) << 16)
}

/// Returns 16 bits of a hash of one SYN, which cost a single multiplication.
#[inline(always)]
pub const fn syn_tag(connection_hash: u64, sequence: u32) -> u16 {
    ((connection_hash ^ sequence as u64).wrapping_mul(FIRST_MULTIPLIER) >> 48) as u16
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, net::Ipv4Addr};

    use super::*;

    #[test]
    fn neighbours_do_not_meet() {
        let key = 0x0123_4567_89ab_cdef;
        let hashes: HashSet<u64> =
            (0..100_000u32).map(|n| address(key, Ipv4Addr::from(0xc612_0000 + n).into()) & 0xffff_ffff).collect();
        // 100,000 values of 32 bits: 1.2 collisions are expected.
        assert!(hashes.len() > 99_990, "{} distinct", hashes.len());
    }

    #[test]
    fn low_bits_are_even() {
        let mut buckets = [0u32; 64];
        for n in 0..64_000u32 {
            let hash = address(7, Ipv4Addr::from(0x0a00_0000 + n * 256).into());
            buckets[(hash & 63) as usize] += 1;
        }
        assert!(buckets.iter().all(|&count| (800..1200).contains(&count)), "{buckets:?}");
    }

    #[test]
    fn connections_of_one_source_do_not_meet() {
        let source = address(7, Ipv4Addr::new(198, 18, 0, 1).into());
        let server = Ipv4Addr::new(192, 0, 2, 1).into();
        for bits in [0xffff_u64, 0xffff << 16, 0xffff << 40, 0xffff << 48] {
            let cells: HashSet<u64> =
                (0..4096u16).map(|port| connection(client(source, 1024 + port), server, 443) & bits).collect();
            // 4,096 values in 65,536 cells occupy 3,970 of them on average.
            assert!(cells.len() > 3800, "{} of bits {bits:#x}", cells.len());
        }
    }

    #[test]
    fn connections_to_an_address_of_many_ones_do_not_meet() {
        let server = Ipv4Addr::new(223, 255, 255, 255).into();
        let hashes: HashSet<u64> = (0..10_000u32)
            .map(|n| {
                connection(client(address(7, Ipv4Addr::from(0xc612_0000 + n).into()), 1024), server, 0xffff)
                    & 0xffff_ffff
            })
            .collect();
        // 10,000 values of 32 bits: 0.01 collisions are expected.
        assert!(hashes.len() > 9_995, "{} distinct", hashes.len());
    }

    #[test]
    fn the_key_matters() {
        let source: Address = Ipv4Addr::new(198, 18, 0, 1).into();
        assert_ne!(address(1, source), address(2, source));
        assert_ne!(client(address(1, source), 1000), client(address(1, source), 1001));
    }

    /// Keys as a daemon would draw them.
    fn keys(number: u64) -> impl Iterator<Item = u64> {
        (1..=number).map(|n| mix(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    fn flipped(words: [u64; 2], bit: u32) -> [u64; 2] {
        if bit < 64 { [words[0] ^ 1 << bit, words[1]] } else { [words[0], words[1] ^ 1 << (bit - 64)] }
    }

    /// An address of the documentation's network, with a lower half of all kinds of bits.
    const WORDS: [u64; 2] = [u64::from_ne_bytes([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 7]), 0x0123_4567_89ab_cdef];

    /// Checks that each bit of the input flips each bit of the output for about half of the keys.
    fn avalanches(bits: u32, hash: impl Fn(u64, u32) -> u64, base: impl Fn(u64) -> u64) {
        const KEYS: u64 = 2000;
        for bit in 0..bits {
            let mut flips = [0u32; 64];
            for key in keys(KEYS) {
                let difference = hash(key, bit) ^ base(key);
                flips.iter_mut().enumerate().for_each(|(place, flips)| *flips += (difference >> place & 1) as u32);
            }
            for (place, flips) in flips.iter().enumerate() {
                // Six standard deviations of 2,000 tosses are 134.
                assert!((850..=1150).contains(flips), "bit {bit} flips bit {place} for {flips} of {KEYS} keys");
            }
        }
    }

    #[test]
    fn every_bit_of_an_address_changes_every_bit_of_its_hash() {
        let of = |key, words| address(key, Address::from_words(words));
        avalanches(128, |key, bit| of(key, flipped(WORDS, bit)), |key| of(key, WORDS));
        let ipv4 = |key, bits: u32| address(key, Ipv4Addr::from(bits).into());
        avalanches(32, |key, bit| ipv4(key, 0xc612_0001 ^ 1 << bit), |key| ipv4(key, 0xc612_0001));
    }

    #[test]
    fn differences_in_both_halves_do_not_cancel_out() {
        for (high, low) in (0..64).flat_map(|high| (0..64).map(move |low| (high, low))) {
            let other = [WORDS[0] ^ 1 << high, WORDS[1] ^ 1 << low];
            let equal = keys(50).filter(|key| {
                address(*key, Address::from_words(WORDS)) as u32 == address(*key, Address::from_words(other)) as u32
            });
            assert_eq!(equal.count(), 0, "bit {high} of the upper and bit {low} of the lower half");
        }
    }

    /// Asserts that 20,000 values of 32 bits have about as many collisions as random ones: 0.05 are expected.
    fn collide_rarely(what: &str, hashes: impl Iterator<Item = u64>) {
        let hashes: Vec<u64> = hashes.map(|hash| hash & 0xffff_ffff).collect();
        let distinct: HashSet<u64> = hashes.iter().copied().collect();
        assert!(hashes.len() - distinct.len() <= 2, "{what}: {} of {} are distinct", distinct.len(), hashes.len());
    }

    #[test]
    fn structured_addresses_collide_as_rarely_as_random_ones() {
        for key in keys(20) {
            let of = |words| address(key, Address::from_words(words));
            let two_bits = (0..128).flat_map(|first| (0..first).map(move |second| (first, second)));
            collide_rarely("two bits", two_bits.map(|(first, second)| of(flipped(flipped(WORDS, first), second))));
            for step in [1, 1 << 8, 1 << 31, 1 << 44] {
                let low = |n: u64| [WORDS[0], WORDS[1].wrapping_add(n.wrapping_mul(step))];
                collide_rarely("steps of the lower half", (0..20_000).map(|n| of(low(n))));
                let both = |n: u64| [WORDS[0].wrapping_add(n.wrapping_mul(step)), WORDS[1].wrapping_sub(n)];
                collide_rarely("steps of both halves", (0..20_000).map(|n| of(both(n))));
            }
        }
    }

    #[test]
    fn connections_to_several_addresses_differ() {
        for key in keys(20) {
            let client = client(address(key, Ipv4Addr::new(198, 18, 0, 1).into()), 40_000);
            let to = |n: u32| connection(client, Ipv4Addr::from(0xc000_0200 + n).into(), 80);
            collide_rarely("addresses of the host", (0..20_000).map(to));
            // The same sequence number to each: the tags have 16 bits, and 256 of them 0.5 collisions.
            let tags: HashSet<u16> = (0..256).map(|n| syn_tag(to(n), 77)).collect();
            assert!(tags.len() >= 250, "{} of 256", tags.len());
            // A sequence number that makes up for the address, if they were only combined.
            let matched: HashSet<u16> = (0..256).map(|n| syn_tag(to(n), n.swap_bytes())).collect();
            assert!(matched.len() >= 250, "{} of 256", matched.len());
        }
    }

    /// Hashes of everything else, with which a bit must neither disappear in a carry nor be masked.
    const OTHERS: [u64; 4] = [0, u64::MAX, 0x1234_5678_9abc_def0, 0xfedc_ba98_7654_3210];

    #[test]
    fn every_port_and_sequence_number_counts() {
        for other in OTHERS {
            let clients: HashSet<u64> = (0..=u16::MAX).map(|port| client(other, port)).collect();
            assert_eq!(clients.len(), 65_536, "ports of {other:#x}");
            let numbers = (0..32).map(|bit| 1 << bit).chain([0, u32::MAX]);
            let syns: HashSet<u64> = numbers.map(|number| syn(other, number)).collect();
            assert_eq!(syns.len(), 34, "sequence numbers of {other:#x}");
        }
        assert_eq!(OTHERS.map(|other| syn(other, 7)).iter().collect::<HashSet<_>>().len(), OTHERS.len());
    }

    /// Tables are indexed by the lowest bits. About eight of sixteen are to change with each bit of what is hashed.
    #[test]
    fn every_bit_changes_half_of_the_lowest_bits() {
        const SAMPLES: u64 = 256;
        let assert_half = |what: &str, bit: u32, pair: &dyn Fn(u64) -> [u64; 2]| {
            let flips = |[one, other]: [u64; 2]| ((one ^ other) as u16).count_ones();
            let sum: u32 = (0..SAMPLES).map(|sample| flips(pair(mix(sample)))).sum();
            let average = f64::from(sum) / SAMPLES as f64;
            assert!((6.0..=10.0).contains(&average), "bit {bit} of {what} changes {average} of 16");
        };
        for bit in 0..16 {
            assert_half("the port", bit, &|other| [client(other, 443), client(other, 443 ^ 1 << bit)]);
        }
        let ipv4 = Address::from(core::net::IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1)));
        for destination in [Address::from_words([0x0123, 0x4567]), ipv4] {
            let hash = |client_hash: u64, port: u16| connection(client_hash, destination, port);
            for bit in 0..64 {
                assert_half("the client", bit, &|other| [hash(other, 443), hash(other ^ 1 << bit, 443)]);
            }
            for bit in 0..16 {
                assert_half("the port", bit, &|other| [hash(other, 443), hash(other, 443 ^ 1 << bit)]);
            }
        }
    }

    /// Fails if a difference passes through a round unmixed, such as that of bit 63 without the shift before it.
    #[test]
    fn no_difference_of_one_half_makes_up_for_one_of_the_other() {
        let low_differences = || (0..64).flat_map(|first| (0..=first).map(move |second| 1_u64 << first | 1 << second));
        for other in OTHERS {
            let base = connection(other, Address::from_words([7, 9]), 443);
            for high in (0..64).map(|bit| 1_u64 << bit) {
                for low in low_differences() {
                    let destination = Address::from_words([7 ^ high, 9 ^ low]);
                    assert_ne!(connection(other, destination, 443), base, "{high:#x} {low:#x}");
                }
            }
        }
    }
}

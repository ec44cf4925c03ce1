//! Keyed hashing. The daemon draws the key at random, so that nobody outside can choose addresses that collide.
//! The hash is a 64-bit multiply-and-shift finaliser (splitmix64): BPF has neither 128-bit multiplication nor
//! AES, and helpers cost more than the sketch.

use crate::address::Address;

const FIRST_MULTIPLIER: u64 = 0xbf58_476d_1ce4_e5b9;

#[inline(always)]
const fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(FIRST_MULTIPLIER);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Returns the hash of an address. Its parts select the cells in every structure that is indexed by source.
#[inline(always)]
pub const fn address(key: u64, address: Address) -> u64 {
    let [high, low] = address.words();
    // An odd multiplier spreads the first word before the second is folded in, so that swapping
    // the words, or changing both alike, changes the hash.
    mix((high ^ key).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32) ^ low ^ (key >> 7))
}

/// Returns the hash of one connection of a source whose hash is `source_hash`.
#[inline(always)]
pub const fn connection(source_hash: u64, source_port: u16, destination_port: u16) -> u64 {
    // The source's hash is mixed already: one multiplication spreads the ports over the upper bits, and folding
    // brings them down.
    let product = (source_hash ^ ((source_port as u64) << 16 | destination_port as u64)).wrapping_mul(FIRST_MULTIPLIER);
    product ^ (product >> 32)
}

/// Returns the hash of a client's address and port.
#[inline(always)]
pub const fn client(source_hash: u64, source_port: u16) -> u64 {
    connection(source_hash, source_port, 0)
}

/// Returns the hash of one SYN: of its connection and initial sequence number.
#[inline(always)]
pub const fn syn(connection_hash: u64, sequence: u32) -> u64 {
    mix(connection_hash ^ (sequence as u64) << 16)
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
        for bits in [0xffff_u64, 0xffff << 16, 0xffff << 40, 0xffff << 48] {
            let cells: HashSet<u64> = (0..4096u16).map(|port| connection(source, 1024 + port, 443) & bits).collect();
            // 4,096 values in 65,536 cells occupy 3,970 of them on average.
            assert!(cells.len() > 3800, "{} of bits {bits:#x}", cells.len());
        }
    }

    #[test]
    fn the_key_matters() {
        let source: Address = Ipv4Addr::new(198, 18, 0, 1).into();
        assert_ne!(address(1, source), address(2, source));
        assert_ne!(connection(address(1, source), 1000, 80), connection(address(1, source), 1001, 80));
    }
}

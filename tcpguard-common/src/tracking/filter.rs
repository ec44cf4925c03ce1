//! A Bloom filter of the sources that have an entry in the source table, so that a flood of unknown sources
//! causes no table lookups. The three bits of a source lie in one word, so a single read decides.
//!
//! The datapath sets the bits of a source when it adds an entry. The daemon rebuilds the filter from the table
//! from time to time, because evicted entries leave their bits behind. A bit lost to a concurrent rebuild is
//! set again by the source's next SYN that is looked up.

/// The number of words in one map element (4 KiB).
pub const WORDS_PER_BLOCK: usize = 512;
/// Filter bits per entry of the source table. With a full table, the filter passes fewer than one unknown
/// source in a hundred.
pub const BITS_PER_ENTRY: u32 = 16;

/// One map element.
pub type Block = [u64; WORDS_PER_BLOCK];

/// Returns the number of blocks for a table of `max_sources` entries, a power of two.
pub const fn blocks(max_sources: u32) -> u32 {
    let bits = max_sources as u64 * BITS_PER_ENTRY as u64;
    (bits.div_ceil(64 * WORDS_PER_BLOCK as u64) as u32).next_power_of_two()
}

/// Returns the block, the word within it and the bit mask of a source with this hash, in a filter of `blocks`
/// blocks (a power of two).
#[inline(always)]
pub const fn position(hash: u64, blocks: u32) -> (u32, usize, u64) {
    let word = (hash >> 12) as u32;
    let mask = 1 << (hash & 63) | 1 << (hash >> 6 & 63) | 1 << (hash >> 50 & 63);
    ((word / WORDS_PER_BLOCK as u32) & (blocks - 1), word as usize % WORDS_PER_BLOCK, mask)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::hash;

    #[test]
    fn the_size_follows_the_table() {
        assert_eq!(blocks(262_144), 128);
        assert_eq!(blocks(1024), 1);
        assert_eq!(blocks(1_000_000), 512);
    }

    #[test]
    fn a_full_filter_lets_few_unknown_sources_through() {
        let entries = 262_144;
        let count = blocks(entries);
        let mut filter = vec![[0u64; WORDS_PER_BLOCK]; count as usize];
        let source = |n: u32| hash::address(99, Ipv4Addr::from(n).into());
        for n in 0..entries {
            let (block, word, mask) = position(source(n), count);
            filter[block as usize][word] |= mask;
        }
        let passes = |n: u32| {
            let (block, word, mask) = position(source(n), count);
            filter[block as usize][word] & mask == mask
        };
        assert!((0..entries).all(passes), "a known source must never be missed");
        let wrongly = (entries..entries * 2).filter(|&n| passes(n)).count();
        assert!(wrongly < entries as usize / 100, "{wrongly} of {entries}");
    }
}

//! The source table: where the entry of a source is.
//!
//! Entries stand in sets of sixteen. The hash of an address selects the set, and a tag of eight bits tells which entries of the
//! set may be the source's; their addresses are compared. The tags of a set lie side by side in a map of their own: one read
//! decides that a source has no entry, as most of those in a flood of forged addresses, and what such a flood reads fits the
//! caches.
//!
//! A source whose set is full takes the place of the entry that is needed least ([`SourceEntry::kept_until`]). The table holds
//! half as many places again as it may hold entries, so that few sets are full before the table is.
//!
//! [`SourceEntry::kept_until`]: super::source::SourceEntry::kept_until

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::source::SourceEntry;
use crate::address::Address;

/// Places per set.
pub const WAYS: u32 = 16;
/// How many entries of a set may have the same tag.
pub const ALIKE: u32 = 4;
/// Places whose tags share a word.
const LANES: u32 = 8;
/// Words per set.
const WORDS: u32 = WAYS / LANES;
/// Bits of a tag.
const TAG_BITS: u32 = 8;

/// The tags of one set; the lowest byte of a word belongs to its first place.
pub type Tags = [u64; WORDS as usize];

/// Sets per element of the map of tags (1 KiB).
pub const SETS_PER_SLAB: usize = 64;
/// One element of the map of tags: the words of one set after those of the other. (The compiler describes an array of arrays to
/// the kernel with another size.)
pub type Slab = [u64; SETS_PER_SLAB * WORDS as usize];
/// Places whose tags are in one [`Slab`].
pub const PLACES_PER_SLAB: u32 = SETS_PER_SLAB as u32 * WAYS;

/// The tag of a place without an entry.
pub const EMPTY: u64 = 0;
/// The tag of a place whose entry is being written.
pub const CLAIMED: u64 = 1;
/// The lowest tag of a source.
const FIRST: u64 = 2;

/// One place of the table: an element of the map of entries.
///
/// The address and the fields that every SYN changes come first: 80 bytes, which lie in two cache lines if the first place begins
/// at one, because a place is a multiple of 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Place {
    /// The source.
    pub address: Address,
    /// What is known of it.
    pub entry: SourceEntry,
}

/// Returns the number of slabs of a table that may hold `max_sources` entries.
pub const fn slabs(max_sources: u32) -> u32 {
    (max_sources as u64 * 3 / 2).div_ceil(PLACES_PER_SLAB as u64) as u32
}

/// Returns the number of places in so many slabs.
pub const fn places(slabs: u32) -> u32 {
    slabs * PLACES_PER_SLAB
}

/// Where the entry of a source may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    set: u32,
    /// What marks the source's place in its set.
    pub tag: u64,
}

impl Position {
    /// Returns the position of a source with this hash in a table of `slabs` slabs.
    #[inline(always)]
    pub const fn of(hash: u64, slabs: u32) -> Self {
        let sets = slabs as u64 * SETS_PER_SLAB as u64;
        let values = (1 << TAG_BITS) - FIRST;
        let (scaled_set, scaled_tag) = ((hash >> 32) * sets, (hash & 0xff) * values);
        Self { set: (scaled_set >> 32) as u32, tag: FIRST + (scaled_tag >> TAG_BITS) }
    }

    /// Returns the number of the slab that the set's tags are in.
    #[inline(always)]
    pub const fn slab(self) -> u32 {
        self.set / SETS_PER_SLAB as u32
    }

    /// Returns the tags of the set.
    #[inline(always)]
    pub fn tags(self, slab: &mut Slab) -> &mut Tags {
        &mut slab.as_chunks_mut().0[self.set as usize % SETS_PER_SLAB]
    }

    /// Returns the number of a place of the set in the map of entries.
    #[inline(always)]
    pub const fn place(self, way: u32) -> u32 {
        self.set * WAYS + way
    }
}

/// The places of a set that hold some tag.
///
/// The upper bit of a byte stands for the place whose tag is in that byte of the first word, the bit below it for the one in that
/// byte of the second word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matches(u64);

const ONES: u64 = u64::from_ne_bytes([1; 8]);

impl Matches {
    /// Returns the places that hold `tag`.
    #[inline(always)]
    pub const fn of(tags: &Tags, tag: u64) -> Self {
        let tag = tag * ONES;
        Self(zero_bytes(tags[0] ^ tag) | zero_bytes(tags[1] ^ tag) >> 1)
    }

    /// Returns whether there are none.
    #[inline(always)]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns how many there are.
    #[inline(always)]
    pub const fn count(self) -> u32 {
        let by_byte = (self.0 >> 7 & ONES) + (self.0 >> 6 & ONES);
        (by_byte.wrapping_mul(ONES) >> 56) as u32
    }

    /// Returns the first place, counted from the first of the set; 0 if there are none.
    #[inline(always)]
    pub const fn first(self) -> u32 {
        /// The byte that a multiplication by 2^(8 n) brings to the top is n: BPF has no instruction that counts zeros.
        const NUMBERS: u64 = u64::from_be_bytes([0, 1, 2, 3, 4, 5, 6, 7]);
        let lowest = self.0 & self.0.wrapping_neg();
        let byte = (lowest >> 7 | lowest >> 6) & ONES;
        let is_of_second = lowest & (0x40 * ONES) != 0;
        (byte.wrapping_mul(NUMBERS) >> 56) as u32 % LANES + if is_of_second { LANES } else { 0 }
    }

    /// Returns the places after the first one.
    #[inline(always)]
    pub const fn rest(self) -> Self {
        Self(self.0 & self.0.wrapping_sub(1))
    }

    /// Returns whether another entry with this tag would not be found: a look-up compares no more than [`ALIKE`].
    #[inline(always)]
    pub const fn are_all_that_are_compared(self) -> bool {
        let mut left = self;
        let mut count = 1;
        while count < ALIKE {
            left = left.rest();
            count += 1;
        }
        !left.is_empty()
    }
}

/// Returns the upper bit of each byte that is zero. No carry leaves a byte, so that none is mistaken.
#[inline(always)]
const fn zero_bytes(word: u64) -> u64 {
    const LOW: u64 = 0x7f * ONES;
    !(((word & LOW) + LOW) | word | LOW)
}

/// Returns the index of the word that holds the tag of a place.
#[inline(always)]
pub const fn word_of(way: u32) -> usize {
    (way / LANES % WORDS) as usize
}

/// Returns the tag of a place.
#[inline(always)]
pub const fn tag_of(tags: &Tags, way: u32) -> u64 {
    tags[word_of(way)] >> shift_of(way) & 0xff
}

/// Returns the amount that changes the tag of a place from `from` to `to` if it is added to its word, wrapping.
#[inline(always)]
pub const fn change(way: u32, from: u64, to: u64) -> u64 {
    to.wrapping_sub(from) << shift_of(way)
}

#[inline(always)]
const fn shift_of(way: u32) -> u32 {
    way % LANES * TAG_BITS
}

/// Returns the places of a slab that hold an entry, counted from its first one.
pub fn occupied(slab: &Slab) -> impl Iterator<Item = u32> + '_ {
    let sets = slab.as_chunks().0.iter().zip(0..).filter(|(tags, _)| **tags != [EMPTY; WORDS as usize]);
    sets.flat_map(|(tags, set)| (0..WAYS).filter(|way| tag_of(tags, *way) >= FIRST).map(move |way| set * WAYS + way))
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, net::Ipv4Addr};

    use super::*;
    use crate::hash;

    fn hash_of(n: u32) -> u64 {
        hash::address(99, Ipv4Addr::from(n).into())
    }

    #[test]
    fn the_size_follows_the_number_of_entries() {
        assert_eq!(slabs(262_144), 384);
        assert_eq!([slabs(1024), slabs(683), slabs(682)], [2, 1, 1]);
        assert_eq!(places(slabs(16_777_216)), 25_165_824);
        assert_eq!(size_of::<Place>(), 144);
    }

    #[test]
    fn a_position_lies_in_the_table_and_its_tag_is_that_of_an_entry() {
        for slabs in [1, 2, 384, 24_576] {
            let positions: Vec<Position> = (0..50_000).map(|n| Position::of(hash_of(n), slabs)).collect();
            assert!(positions.iter().all(|position| position.slab() < slabs));
            assert!(positions.iter().all(|position| (FIRST..256).contains(&position.tag)));
            assert!(positions.iter().all(|position| position.place(15) < places(slabs)));
            let found: HashSet<u64> = positions.iter().map(|position| position.tag).collect();
            assert_eq!(found.len(), 254, "tags in use");
        }
    }

    #[test]
    fn every_place_with_a_tag_is_found_and_no_other() {
        // Tags that differ by one, next to the one that is looked for, are what a carry would mistake.
        let tags = [u64::from_le_bytes([5, 4, 5, 6, 0, 1, 5, 0x85]), u64::from_le_bytes([4, 6, 0, 4, 5, 0x85, 5, 6])];
        let ways = |tag| {
            let mut ways = Vec::new();
            let mut matches = Matches::of(&tags, tag);
            while !matches.is_empty() {
                ways.push(matches.first());
                matches = matches.rest();
            }
            ways.sort_unstable();
            assert_eq!(Matches::of(&tags, tag).count() as usize, ways.len());
            ways
        };
        assert_eq!([ways(5), ways(4), ways(EMPTY)], [vec![0, 2, 6, 12, 14], vec![1, 8, 11], vec![4, 10]]);
        assert_eq!([ways(0x85), ways(0x84), ways(255)], [vec![7, 13], vec![], vec![]]);
        assert_eq!(Matches::of(&[0, 0], EMPTY).count(), WAYS);
        for way in 0..WAYS {
            for tag in 1..256 {
                let mut tags = [EMPTY; 2];
                tags[word_of(way)] = change(way, EMPTY, tag);
                assert_eq!((tag_of(&tags, way), Matches::of(&tags, tag).first()), (tag, way));
                assert!(Matches::of(&tags, tag).rest().is_empty());
            }
        }
    }

    #[test]
    fn no_more_entries_are_alike_than_a_look_up_compares() {
        let alike = |count: usize| {
            let mut bytes = [3; 8];
            bytes[..count].fill(9);
            Matches::of(&[u64::from_le_bytes(bytes), 0], 9)
        };
        for (count, expected) in [(0, false), (1, false), (3, false), (4, true), (8, true)] {
            assert_eq!(alike(count).are_all_that_are_compared(), expected, "{count}");
        }
    }

    #[test]
    fn a_change_of_one_tag_leaves_the_others() {
        let word = u64::from_le_bytes([255, 1, 255, 0, 7, 1, 2, 255]);
        let changed = word.wrapping_add(change(1, CLAIMED, 200)).wrapping_add(change(15, 255, EMPTY));
        assert_eq!(changed.to_le_bytes(), [255, 200, 255, 0, 7, 1, 2, 0]);
    }

    #[test]
    fn places_with_an_entry_are_listed() {
        let mut slab: Slab = [0; 128];
        slab[0] = change(0, EMPTY, FIRST);
        slab[3] = change(15, EMPTY, 255) + change(8, EMPTY, CLAIMED);
        slab[127] = change(15, EMPTY, 9);
        assert_eq!(occupied(&slab).collect::<Vec<_>>(), [0, 31, 1023]);
    }

    /// Fails if the places that are held ready beyond the entries are too few.
    #[test]
    fn few_sets_are_full_before_the_table_is() {
        let entries = 65_536;
        let slabs = slabs(entries);
        let mut held = vec![0u32; (slabs as usize) * SETS_PER_SLAB];
        let mut without_place = 0;
        for n in 0..entries {
            let count = &mut held[Position::of(hash_of(n), slabs).set as usize];
            if *count == WAYS { without_place += 1 } else { *count += 1 }
        }
        assert!(without_place * 100 < entries, "{without_place} of {entries}");
        assert!(
            held.iter().filter(|count| **count == 0).count() * 1000 < held.len(),
            "sets in which nothing can be replaced"
        );
    }
}

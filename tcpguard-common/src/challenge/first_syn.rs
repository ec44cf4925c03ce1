//! Detection of retransmitted SYNs: a TCP client retransmits its SYN after a second; floods do not.
//!
//! SYNs are remembered in sets of four cells of four bytes, which hold the connection and the time at which its SYN
//! was last received. A client whose cell was evicted, or that found no cell free, has to retransmit once more. A SYN
//! that arrives again and again at shorter intervals than a client's is never taken for a retransmit.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Cells per set; a set fits in a quarter of a cache line.
pub const WAYS: usize = 4;
/// Sets in one map element.
pub const SETS_PER_SLAB: usize = 256;
/// The number of map elements, a power of two: two million cells in all.
pub const SLABS: u32 = 2048;
/// The number of map elements in use at least, a power of two: 2 MiB, which the processor's caches hold better than the
/// whole table, and enough for 400,000 SYNs per second. More are in use only where they are needed, because half and more
/// of what is remembered cannot be found when the number changes.
pub const MIN_SLABS: u32 = 512;

/// Returns the number of map elements needed for this many SYNs per second. With a quarter more SYNs than cells, one in
/// five is not remembered, and its client waits for its second retransmit.
pub const fn needed_slabs(syn_per_second: u64) -> u32 {
    const CELLS: u64 = MIN_SLABS as u64 * (SETS_PER_SLAB * WAYS) as u64;
    // Cells are kept for 1.25 s.
    if syn_per_second > CELLS { SLABS } else { MIN_SLABS }
}

/// One map element.
pub type Slab = [Set; SETS_PER_SLAB];

/// One set as stored in the map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Set([u32; WAYS]);

/// Bits of a cell that hold the time, in slots ([`crate::clock::Clock::slot`], about 1/8 s).
const TIME_BITS: u32 = 10;
const TIME_MASK: u32 = (1 << TIME_BITS) - 1;
/// A repeat after fewer slots is not a TCP retransmit: the first one is sent after a second (RFC 6298 2.1).
const MIN_AGE: u32 = 6;
/// A cell is kept for this many slots: a little longer than a second, until the first retransmit.
const KEPT: u32 = 10;
/// A repeat after more slots counts as a new SYN: the third retransmit is sent four seconds after the second.
const MAX_AGE: u32 = 40;

/// Returns the element and the set within it for a SYN with this hash ([`crate::hash::syn`]). `last_slab` is the last
/// element in use ([`crate::abi::lease::Lease::last_first_syn_slab`]).
#[inline(always)]
pub const fn position(hash: u64, last_slab: u64) -> (u32, usize) {
    let set = hash as u32;
    let in_use = (last_slab as u32 | (MIN_SLABS - 1)) & (SLABS - 1);
    ((set / SETS_PER_SLAB as u32) & in_use, set as usize % SETS_PER_SLAB)
}

impl Set {
    /// Remembers a SYN received in slot `slot`. Returns true if the same SYN was last received an interval ago at
    /// which a TCP client retransmits.
    #[inline(always)]
    pub fn is_repeat(&mut self, hash: u64, slot: u32) -> bool {
        let tag = (hash >> 32) as u32 & !TIME_MASK;
        let mut place = WAYS;
        for way in 0..WAYS {
            let cell = self.0[way];
            let age = slot.wrapping_sub(cell) & TIME_MASK;
            if cell & !TIME_MASK == tag && age <= MAX_AGE {
                self.0[way] = tag | slot & TIME_MASK;
                return age >= MIN_AGE;
            }
            // In a flood that overwrites every cell within a second, no SYN would be known when it is retransmitted.
            if age >= KEPT || cell == 0 {
                place = way;
            }
        }
        if place < WAYS {
            self.0[place] = tag | slot & TIME_MASK;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: u64 = 0xabcd_ef01_2345_6789;

    #[test]
    fn it_must_come_again_in_time() {
        let mut set = Set::default();
        assert!(!set.is_repeat(HASH, 1000));
        assert!(!set.is_repeat(HASH, 1000), "at once");
        assert!(set.is_repeat(HASH, 1008), "after a second");
        assert!(set.is_repeat(HASH, 1024), "after two more");
        assert!(set.is_repeat(HASH, 1056), "after four more");
        assert!(!set.is_repeat(HASH, 1097), "too late: it is a new one");
        assert!(set.is_repeat(HASH, 1105));
    }

    #[test]
    fn what_comes_again_all_the_time_is_no_client() {
        let mut set = Set::default();
        for slot in 0..100 {
            assert!(!set.is_repeat(HASH, 1000 + 5 * slot));
        }
    }

    #[test]
    fn the_oldest_is_forgotten() {
        let mut set = Set::default();
        let other = |number: u64| HASH ^ number << 50;
        for number in 0..4 {
            assert!(!set.is_repeat(other(number), 1000 + number as u32));
        }
        assert!(!set.is_repeat(other(4), 1010), "it takes the place of the oldest");
        assert!(set.is_repeat(other(3), 1011));
        assert!(set.is_repeat(other(4), 1018));
        assert!(!set.is_repeat(other(0), 1018), "which was forgotten");
    }

    #[test]
    fn a_flood_does_not_push_out_what_is_younger_than_a_second() {
        let mut set = Set::default();
        assert!(!set.is_repeat(HASH, 1000));
        for number in 1..1000 {
            assert!(!set.is_repeat(HASH ^ number << 50, 1000 + number as u32 / 125));
        }
        assert!(set.is_repeat(HASH, 1008));
    }

    #[test]
    fn as_much_of_the_table_is_used_as_the_rate_needs() {
        for (rate, slabs) in [(0, MIN_SLABS), (500_000, MIN_SLABS), (600_000, SLABS), (u64::MAX, SLABS)] {
            assert_eq!(needed_slabs(rate), slabs, "{rate} per second");
        }
        // What is remembered stays where it is for a quarter of the SYNs when the table grows.
        let last = |slabs: u32| u64::from(slabs) - 1;
        let is_kept = |n: &u64| position(n << 9, last(MIN_SLABS)).0 == position(n << 9, last(SLABS)).0;
        let kept = (0..4096).filter(is_kept).count();
        assert!((800..=1300).contains(&kept), "{kept}");
    }

    #[test]
    fn time_wraps() {
        let mut set = Set::default();
        assert!(!set.is_repeat(HASH, u32::MAX - 2));
        assert!(set.is_repeat(HASH, 6));
    }

    #[test]
    fn the_table_grows_when_cells_run_out() {
        const CELLS: u64 = MIN_SLABS as u64 * (SETS_PER_SLAB * WAYS) as u64;
        assert_eq!([0, CELLS, CELLS + 1].map(needed_slabs), [MIN_SLABS, MIN_SLABS, SLABS]);
    }

    #[test]
    fn the_lowest_bits_choose_the_set() {
        let sets = SETS_PER_SLAB as u64;
        let last = u64::from(SLABS - 1);
        assert_eq!(position(sets * 5 + 3, last), (5, 3));
        assert_eq!(position(sets * u64::from(SLABS) + sets - 1, last), (0, SETS_PER_SLAB - 1));
        assert_eq!(position(sets * u64::from(MIN_SLABS + 5), 0), (5, 0), "at least MIN_SLABS are in use");
        assert_eq!(position(sets * u64::from(MIN_SLABS + 5), u64::MAX), (MIN_SLABS + 5, 0), "at most SLABS");
    }
}

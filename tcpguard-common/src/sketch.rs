//! A count-min sketch of SYNs by source, one per CPU, that ages by itself.
//!
//! A source's three cells lie in one 64-byte line, so counting costs one cache miss whatever the
//! number of sources. Sharing a line makes the cells of different sources meet more often than in
//! the textbook's independent rows; what the sketch decides (who earns an entry in the source
//! table) tolerates that, since the threshold follows the load.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, transmute_mut};

/// Lines in one map element (32 KiB, the most that a per-CPU element may have).
pub const LINES_PER_SLAB: usize = 512;
/// Map elements.
pub const SLABS: usize = 8;
/// Lines of one CPU's sketch.
pub const LINES: usize = LINES_PER_SLAB * SLABS;
/// Cells of a line that one source counts in.
pub const CELLS_PER_SOURCE: u32 = 3;

/// Cells of a line; the first holds the epoch of the last count.
const CELLS: usize = 32;
/// SYNs of random sources that raise each cell by one on average.
pub const LOAD_PER_COUNT: u32 = (LINES * CELLS) as u32 / CELLS_PER_SOURCE;
const CELL_BITS: u32 = u16::BITS;
/// A word with the lowest bit of each of its four cells set.
const EVERY_CELL: u64 = 0x0001_0001_0001_0001;

/// One CPU's lines as they stand in a map element.
pub type Slab = [Line; LINES_PER_SLAB];

/// Three rows of 16-bit cells; the first cell of all holds the epoch of the last count.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Line {
    cells: [u16; CELLS],
}

/// The element and the line within it that a source of this hash counts in.
#[inline(always)]
pub const fn position(hash: u64) -> (u32, usize) {
    let line = hash as usize & (LINES - 1);
    ((line / LINES_PER_SLAB) as u32, line % LINES_PER_SLAB)
}

impl Line {
    /// Counts one SYN and returns how many the source has sent of late: never less than it really
    /// did since the last ageing, and more where others share all three cells. Counts halve with
    /// every epoch; they saturate at 65,535.
    #[inline(always)]
    pub fn count(&mut self, hash: u64, epoch: u32) -> u32 {
        self.age(epoch as u16);
        let bits = hash >> 32;
        // Rows of seven (the epoch has the eighth), eight and sixteen cells.
        let chosen =
            [1 + (((bits & 0xff) * 7) >> 8) as usize, 8 + (bits >> 8 & 7) as usize, 16 + (bits >> 11 & 15) as usize];
        let mut least = u16::MAX;
        for cell in chosen {
            let count = self.cells[cell & (CELLS - 1)].saturating_add(1);
            self.cells[cell & (CELLS - 1)] = count;
            least = least.min(count);
        }
        least.into()
    }

    /// Halves every cell once for each epoch since the line was last counted in.
    #[inline(always)]
    fn age(&mut self, epoch: u16) {
        let elapsed = u32::from(epoch.wrapping_sub(self.cells[0]));
        if elapsed == 0 {
            return;
        }
        let halvings = if elapsed < CELL_BITS { elapsed } else { CELL_BITS - 1 };
        let kept = u64::from(u16::MAX >> halvings) * EVERY_CELL;
        let words: &mut [u64; CELLS / 4] = transmute_mut!(self);
        for word in words {
            *word = *word >> halvings & kept;
        }
        self.cells[0] = epoch;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_source_is_counted_exactly() {
        let mut line = Line::default();
        for expected in 1..=1000 {
            assert_eq!(line.count(0xdead_beef_1234_5678, 9), expected);
        }
    }

    #[test]
    fn counts_halve_with_each_epoch() {
        let mut line = Line::default();
        for _ in 0..64 {
            line.count(1 << 33, 1);
        }
        assert_eq!(line.count(1 << 33, 2), 33);
        assert_eq!(line.count(1 << 33, 5), 5);
        assert_eq!(line.count(1 << 33, 500), 1);
    }

    #[test]
    fn counts_saturate() {
        let mut line = Line::default();
        for _ in 0..70_000 {
            line.count(0, 3);
        }
        assert_eq!(line.count(0, 3), 65_535);
    }

    proptest! {
        #[test]
        fn never_less_than_the_truth(hashes in proptest::collection::vec(any::<u64>(), 1..200), probe in any::<u64>(), times in 1u32..50) {
            let mut line = Line::default();
            for hash in hashes {
                line.count(hash, 7);
            }
            let mut estimate = 0;
            for _ in 0..times {
                estimate = line.count(probe, 7);
            }
            prop_assert!(estimate >= times);
        }

        #[test]
        fn the_epoch_survives_any_count(hashes in proptest::collection::vec((any::<u64>(), 0u32..100_000), 1..200)) {
            let mut line = Line::default();
            for (hash, epoch) in hashes {
                line.count(hash, epoch);
                prop_assert_eq!(line.cells[0], epoch as u16);
            }
        }
    }
}

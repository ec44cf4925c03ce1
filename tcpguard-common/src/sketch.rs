//! A count-min sketch of SYNs by source, one per CPU, that ages by itself.
//!
//! A source's four cells lie in one 64-byte line, so counting costs one cache miss whatever the
//! number of sources. Sharing a line makes the cells of different sources meet more often than in
//! the textbook's four independent rows; what the sketch decides (who earns an entry in the source
//! table) tolerates that, since the threshold follows the load.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Lines in one map element (32 KiB, the most that a per-CPU element may have).
pub const LINES_PER_SLAB: usize = 512;
/// Map elements.
pub const SLABS: usize = 16;
/// Lines of one CPU's sketch.
pub const LINES: usize = LINES_PER_SLAB * SLABS;
/// Cells of a line that one source counts in.
pub const CELLS_PER_SOURCE: u32 = 4;

const CELL_BITS: u32 = 16;
const CELL_MAXIMUM: u64 = 0xffff;
const EVERY_CELL: u64 = 0x0001_0001_0001_0001;

/// One CPU's lines as they stand in a map element.
pub type Slab = [Line; LINES_PER_SLAB];

/// Four rows of eight 16-bit cells; the first cell holds the epoch of the last count.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Line {
    words: [u64; 8],
}

/// The element and the line within it that a source of this hash counts in.
#[inline(always)]
pub const fn position(hash: u64) -> (u32, usize) {
    let line = hash as usize & (LINES - 1);
    ((line / LINES_PER_SLAB) as u32, line % LINES_PER_SLAB)
}

impl Line {
    /// Counts one SYN and returns how many the source has sent of late: never less than it really
    /// did since the last ageing, and more where others share all four cells. Counts halve with
    /// every epoch; they saturate at 65,535.
    #[inline(always)]
    pub fn count(&mut self, hash: u64, epoch: u32) -> u32 {
        self.age(epoch);
        let bits = hash >> 32;
        // Seven cells in the row that holds the epoch, eight in the others.
        let cells = [
            1 + (((bits & 0xff) * 7) >> 8) as usize,
            8 + (bits >> 8 & 7) as usize,
            16 + (bits >> 11 & 7) as usize,
            24 + (bits >> 14 & 7) as usize,
        ];
        let mut least = CELL_MAXIMUM;
        for cell in cells {
            let shift = (cell as u32 % 4) * CELL_BITS;
            let word = &mut self.words[(cell / 4) & 7];
            let value = *word >> shift & CELL_MAXIMUM;
            if value < CELL_MAXIMUM {
                *word += 1 << shift;
                least = least.min(value + 1);
            }
        }
        least as u32
    }

    /// Halves every cell once for each epoch since the line was last counted in.
    #[inline(always)]
    fn age(&mut self, epoch: u32) {
        let stamp = self.words[0] & CELL_MAXIMUM;
        let now = epoch as u64 & CELL_MAXIMUM;
        let elapsed = now.wrapping_sub(stamp) & CELL_MAXIMUM;
        if elapsed == 0 {
            return;
        }
        let halvings = if elapsed < CELL_BITS as u64 { elapsed as u32 } else { CELL_BITS - 1 };
        let kept = (CELL_MAXIMUM >> halvings) * EVERY_CELL;
        for word in &mut self.words {
            *word = *word >> halvings & kept;
        }
        self.words[0] = self.words[0] & !CELL_MAXIMUM | now;
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
                prop_assert_eq!(line.words[0] & CELL_MAXIMUM, u64::from(epoch) & CELL_MAXIMUM);
            }
        }
    }
}

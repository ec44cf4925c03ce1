//! A count-min sketch of SYNs by source, one per CPU, whose counts decay over time.
//!
//! The three cells of a source lie in one 64-byte line, so that counting costs one cache miss whatever the
//! number of sources. Sharing a line makes the cells of different sources collide more often than in the
//! independent rows of the textbook version. Admission to the source table, which is based on the sketch,
//! tolerates that, because its threshold follows the load.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, transmute_mut};

/// Lines in one map element (32 KiB, the maximum for an element of a per-CPU map).
pub const LINES_PER_SLAB: usize = 512;
/// The number of map elements.
pub const SLABS: usize = 8;
/// Lines in the sketch of one CPU.
pub const LINES: usize = LINES_PER_SLAB * SLABS;
/// Cells of a line in which one source is counted.
pub const CELLS_PER_SOURCE: u32 = 3;

/// Cells of a line; the first one holds the epoch of the last count.
const CELLS: usize = 32;
/// The number of SYNs from random sources that raises each cell by one on average.
pub const LOAD_PER_COUNT: u32 = (LINES * CELLS) as u32 / CELLS_PER_SOURCE;
const CELL_BITS: u32 = u16::BITS;
/// A word with the lowest bit of each of its four cells set.
const EVERY_CELL: u64 = 0x0001_0001_0001_0001;

/// The lines of one CPU in one map element.
pub type Slab = [Line; LINES_PER_SLAB];

/// Three rows of 16-bit cells; the first cell of the line holds the epoch of the last count.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Line {
    cells: [u16; CELLS],
}

/// Returns the element and the line within it in which a source with this hash is counted.
#[inline(always)]
pub const fn position(hash: u64) -> (u32, usize) {
    let line = hash as usize & (LINES - 1);
    ((line / LINES_PER_SLAB) as u32, line % LINES_PER_SLAB)
}

impl Line {
    /// Counts one SYN and returns the estimated number of recent SYNs from the source: never less than the
    /// number since the last ageing, and more if others share all three cells. Counts halve with every epoch
    /// and saturate at 65,535.
    #[inline(always)]
    pub fn count(&mut self, hash: u64, epoch: u32) -> u32 {
        self.age(epoch as u16);
        let bits = hash >> 32;
        // Rows of seven (the eighth cell holds the epoch), eight and sixteen cells.
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

    /// Halves every cell once per epoch since the line's last count.
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
    fn every_line_is_used_alike() {
        let mut uses = vec![0; LINES];
        for hash in 0..LINES as u64 * 2 {
            let (slab, line) = position(hash | 0xabcd << 32);
            uses[slab as usize * LINES_PER_SLAB + line] += 1;
        }
        assert!(uses.iter().all(|uses| *uses == 2));
        assert_eq!(position(LINES_PER_SLAB as u64 + 3), (1, 3));
    }

    #[test]
    fn a_source_has_one_cell_of_each_row() {
        let cells = |bits: u64| {
            let mut line = Line::default();
            line.count(bits << 32, 0);
            (0..CELLS).filter(|cell| line.cells[*cell] == 1).collect::<Vec<_>>()
        };
        assert_eq!(cells(0), [1, 8, 16]);
        assert_eq!(cells(0xff), [7, 8, 16]);
        assert_eq!(cells(0x25), [2, 8, 16], "the rows of seven are eight bits wide");
        assert_eq!(cells(0x300), [1, 11, 16]);
        assert_eq!(cells(0x700), [1, 15, 16]);
        assert_eq!(cells(0x2800), [1, 8, 21]);
        assert_eq!(cells(0x7800), [1, 8, 31]);
        assert_eq!(cells(0xffff_8000), [1, 8, 16], "no other bit counts");
    }

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

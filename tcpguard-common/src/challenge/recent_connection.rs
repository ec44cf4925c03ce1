//! Connections that segments were found to belong to recently: looking a connection up in the kernel costs more
//! than the rest of a packet's processing, and the next segment of the same connection usually follows soon.

/// Connections that one CPU remembers (32 KiB, the maximum for an element of a per-CPU map).
pub const CELLS: usize = 4096;

/// The cells of one CPU as stored in the map: a connection's hash, with its lowest 16 bits replaced by the
/// time.
pub type Cells = [u64; CELLS];

const TIME: u64 = 0xffff;

/// Returns the cell of a connection with this hash.
#[inline(always)]
pub const fn position(connection_hash: u64) -> usize {
    // The index consists of bits that the cell does not hold.
    connection_hash as usize & (CELLS - 1)
}

/// Returns the cell's value for a connection found in this second ([`crate::clock::Clock::second`]).
#[inline(always)]
pub const fn cell(connection_hash: u64, second: u32) -> u64 {
    connection_hash & !TIME | second as u64 & TIME
}

/// Returns whether a cell holds this connection, found in this second or the previous one.
#[inline(always)]
pub const fn holds(cell: u64, connection_hash: u64, second: u32) -> bool {
    cell & !TIME == connection_hash & !TIME && (second as u64).wrapping_sub(cell) & TIME <= 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_remembered_for_a_second_or_two() {
        let hash = 0x1234_5678_9abc_def0;
        assert!(holds(cell(hash, 65_535), hash, 65_535) && holds(cell(hash, 65_535), hash, 65_536));
        assert!(!holds(cell(hash, 7), hash, 9) && !holds(cell(hash, 7), hash ^ 1 << 20, 7));
    }

    #[test]
    fn the_cell_is_chosen_by_the_lowest_bits_and_holds_the_others() {
        assert_eq!([0, 1, 4095, 4096, 0xffff_f123].map(position), [0, 1, 4095, 0, 0x123]);
        assert_eq!(cell(0x1234_5678_9abc_def0, 0x0007_0003), 0x1234_5678_9abc_0003);
        let hash = 0x1234_5678_9abc_def0;
        assert!(!holds(cell(hash, 9), hash, 8), "of a second to come");
    }
}

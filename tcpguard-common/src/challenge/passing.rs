//! Connections whose segments pass at this moment: looking a connection up in the kernel costs more than the rest
//! of a packet's way, and the next segment of the same one comes soon.

/// Connections that one CPU remembers (32 KiB, the most that a per-CPU element may have).
pub const CELLS: usize = 4096;

/// One CPU's cells as they stand in the map: a connection's hash, but for the lowest bits, which say when.
pub type Cells = [u64; CELLS];

const TIME: u64 = 0xffff;

/// The cell of a connection of this hash.
#[inline(always)]
pub const fn position(connection_hash: u64) -> usize {
    // Of bits that the cell does not hold.
    connection_hash as usize & (CELLS - 1)
}

/// What a cell holds for a connection that was found in this second ([`crate::clock::Clock::second`]).
#[inline(always)]
pub const fn cell(connection_hash: u64, second: u32) -> u64 {
    connection_hash & !TIME | second as u64 & TIME
}

/// Whether a cell holds this connection, found in this second or the one before.
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
}

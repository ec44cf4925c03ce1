//! What the datapath tells the daemon at once, through the ring buffer. Losing an event does no harm:
//! the daemon finds the same facts when it next reads the table.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::address::Address;

/// A source whose half-open handshakes of one period reached this many, or twice, four times … as many, is reported.
pub const FIRST_BUSY_MARK: u32 = 16;

/// Whether a source's half-open count of one period is one to report.
#[inline(always)]
pub const fn is_busy_mark(count: u32) -> bool {
    count >= FIRST_BUSY_MARK && count & (count - 1) == 0
}

/// A source that became busy.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SourceBusy {
    /// Who.
    pub source: Address,
    /// Half-open handshakes that began in this period.
    pub half_open: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_powers_of_two_from_the_first() {
        let marks: Vec<u32> = (0..=200).filter(|&count| is_busy_mark(count)).collect();
        assert_eq!(marks, [16, 32, 64, 128]);
    }
}

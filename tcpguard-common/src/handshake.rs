//! The handshakes that are half open, remembered one by one in a direct-mapped cache.
//!
//! It tells a SYN that is sent again from a new one, and a reset that ends a handshake from one that
//! ends an established connection: by connection and initial sequence number. Only sources with an
//! entry are remembered, so random sources cannot wash it out. A cell lost to another connection
//! makes the account a little coarser, never wrong for longer than a handshake lives.

use crate::clock::WINDOW_PERIODS;

/// Cells in the cache.
pub const CELLS: u32 = 65_536;

/// One remembered handshake: connection tag (32 bits), initial sequence number (16), period it began in (16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake(u64);

/// The cell that a connection of this hash is remembered in.
#[inline(always)]
pub const fn cell(connection_hash: u64) -> u32 {
    connection_hash as u32 & (CELLS - 1)
}

impl Handshake {
    /// A handshake that began in `period` with a SYN of `sequence`.
    #[inline(always)]
    pub const fn new(connection_hash: u64, sequence: u32, period: u32) -> Self {
        Self(tag(connection_hash) | fold(sequence) << 16 | period as u64 & 0xffff)
    }

    /// From what stands in a cell.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// As it stands in a cell; never 0, which is an empty one.
    #[inline(always)]
    pub const fn word(self) -> u64 {
        self.0
    }

    /// Whether this is the handshake of that connection, begun with `sequence` and still alive.
    #[inline(always)]
    pub const fn is(self, connection_hash: u64, sequence: u32, now: u32) -> bool {
        self.is_of(connection_hash, now) && self.0 >> 16 & 0xffff == fold(sequence)
    }

    /// Whether this is a handshake of that connection, still alive.
    #[inline(always)]
    pub const fn is_of(self, connection_hash: u64, now: u32) -> bool {
        self.0 & !0xffff_ffff == tag(connection_hash) && self.age(now) < WINDOW_PERIODS as u64
    }

    /// The period it began in, where that was at most 65,535 periods ago.
    #[inline(always)]
    pub const fn period(self, now: u32) -> u32 {
        now.wrapping_sub(self.age(now) as u32)
    }

    #[inline(always)]
    const fn age(self, now: u32) -> u64 {
        (now as u64).wrapping_sub(self.0) & 0xffff
    }
}

/// The upper half of the hash, which the cell's index is not made of; never 0.
#[inline(always)]
const fn tag(connection_hash: u64) -> u64 {
    connection_hash & !0xffff_ffff | 1 << 32
}

#[inline(always)]
const fn fold(sequence: u32) -> u64 {
    ((sequence >> 16) ^ (sequence & 0xffff)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONNECTION: u64 = 0xfeed_beef_dead_cafe;

    #[test]
    fn a_syn_sent_again_is_recognised() {
        let handshake = Handshake::new(CONNECTION, 0x1234_5678, 70_000);
        assert!(handshake.is(CONNECTION, 0x1234_5678, 70_000));
        assert!(handshake.is(CONNECTION, 0x1234_5678, 70_007));
        assert!(!handshake.is(CONNECTION, 0x1234_5679, 70_000), "another sequence number");
        assert!(!handshake.is(CONNECTION ^ 1 << 40, 0x1234_5678, 70_000), "another connection");
    }

    #[test]
    fn it_is_forgotten_when_the_kernel_forgets_it() {
        let handshake = Handshake::new(CONNECTION, 1, 70_000);
        assert!(!handshake.is(CONNECTION, 1, 70_008));
        assert!(!handshake.is_of(CONNECTION, 70_008));
    }

    #[test]
    fn the_period_is_recovered_whole() {
        let began = 0x0001_fffe;
        let handshake = Handshake::new(CONNECTION, 1, began);
        assert_eq!(handshake.period(began + 5), began);
        assert_eq!(Handshake::from_word(handshake.word()), handshake);
    }

    #[test]
    fn an_empty_cell_is_no_handshake() {
        for now in [0, 1, 65_536, u32::MAX] {
            assert!(!Handshake::from_word(0).is_of(0, now));
        }
        assert_ne!(Handshake::new(0, 0, 0).word(), 0);
    }
}

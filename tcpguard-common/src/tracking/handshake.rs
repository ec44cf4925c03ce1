//! The individual half-open handshakes, in a cache of sets of four.
//!
//! The cache distinguishes a retransmitted SYN from a new one, and a reset that ends a handshake from one that
//! ends an established connection, by connection and initial sequence number. Only handshakes of sources with
//! an entry are remembered, so random sources cannot flush it. A cell lost to another connection makes the
//! accounting slightly less accurate, never for longer than the handshake lifetime.

use crate::clock::WINDOW_PERIODS;

/// The number of sets.
pub const SETS: u32 = 16_384;
/// Cells per set; a set fits in one cache line.
pub const WAYS: usize = 4;

/// One set as stored in the map.
pub type Set = [u64; WAYS];

/// One remembered handshake, never [`EMPTY`]: connection tag (32 bits), folded initial sequence number (16) and
/// the period in which it began (16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Handshake(u64);

/// Returns the index of the set in which a connection with this hash is remembered.
#[inline(always)]
pub const fn set(connection_hash: u64) -> u32 {
    connection_hash as u32 & (SETS - 1)
}

/// Remembers a handshake that begins in period `now` with a SYN of `sequence`. Returns false if it is
/// remembered already: the SYN is a retransmit. If the set is full, one of its other handshakes is forgotten.
#[inline(always)]
pub const fn begin(set: &mut Set, connection_hash: u64, sequence: u32, now: u32) -> bool {
    // The handshake to forget is chosen by bits that neither the set nor the tag consists of.
    let mut place = (connection_hash >> 14) as usize % WAYS;
    let mut way = 0;
    while way < WAYS {
        let handshake = Handshake(set[way]);
        if handshake.is(connection_hash, sequence, now) {
            return false;
        }
        if !handshake.is_alive(now) || handshake.is_of(connection_hash, now) {
            place = way;
        }
        way += 1;
    }
    set[place] = Handshake::new(connection_hash, sequence, now).0;
    true
}

/// Forgets the handshake of a connection, begun with `sequence` if that is known. Returns the period in which
/// it began, or `None` if it was not remembered.
#[inline(always)]
pub const fn end(set: &mut Set, connection_hash: u64, sequence: Option<u32>, now: u32) -> Option<u32> {
    let mut way = 0;
    while way < WAYS {
        let handshake = Handshake(set[way]);
        let is_it = match sequence {
            Some(sequence) => handshake.is(connection_hash, sequence, now),
            None => handshake.is_of(connection_hash, now),
        };
        if is_it {
            set[way] = EMPTY;
            return Some(handshake.period(now));
        }
        way += 1;
    }
    None
}

const EMPTY: u64 = 0;

impl Handshake {
    /// Creates a handshake that began in `period` with a SYN of `sequence`.
    #[inline(always)]
    const fn new(connection_hash: u64, sequence: u32, period: u32) -> Self {
        Self(tag(connection_hash) | fold(sequence) << 16 | period as u64 & 0xffff)
    }

    /// Returns whether this is the handshake of that connection, begun with `sequence` and still alive.
    #[inline(always)]
    const fn is(self, connection_hash: u64, sequence: u32, now: u32) -> bool {
        self.is_of(connection_hash, now) && self.0 >> 16 & 0xffff == fold(sequence)
    }

    /// Returns whether this is a handshake of that connection, still alive.
    #[inline(always)]
    const fn is_of(self, connection_hash: u64, now: u32) -> bool {
        self.0 & !0xffff_ffff == tag(connection_hash) && self.is_alive(now)
    }

    /// Returns whether the kernel may still hold the request.
    #[inline(always)]
    const fn is_alive(self, now: u32) -> bool {
        self.0 != EMPTY && self.age(now) < WINDOW_PERIODS as u64
    }

    /// Returns the period in which it began, if that was at most 65,535 periods ago.
    #[inline(always)]
    const fn period(self, now: u32) -> u32 {
        now.wrapping_sub(self.age(now) as u32)
    }

    #[inline(always)]
    const fn age(self, now: u32) -> u64 {
        (now as u64).wrapping_sub(self.0) & 0xffff
    }
}

/// Returns the upper half of the hash, which the set's index does not depend on; never 0.
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
    }

    #[test]
    fn an_empty_cell_is_no_handshake() {
        for now in [0, 1, 65_536, u32::MAX] {
            assert!(!Handshake(EMPTY).is_of(0, now));
        }
        assert_ne!(Handshake::new(0, 0, 0).0, EMPTY);
    }

    #[test]
    fn a_set_remembers_four_and_forgets_one_for_the_fifth() {
        let mut set = Set::default();
        let connections: Vec<u64> = (1..=5u64).map(|n| n << 40 | n << 14).collect();
        for connection in &connections[..4] {
            assert!(begin(&mut set, *connection, 7, 100));
        }
        for connection in &connections[..4] {
            assert!(!begin(&mut set, *connection, 7, 101), "it is a retransmit");
        }
        assert!(begin(&mut set, connections[4], 7, 101));
        let remembered =
            connections.iter().filter(|connection| end(&mut set, **connection, None, 101).is_some()).count();
        assert_eq!(remembered, 4);
        assert_eq!(set, Set::default());
    }

    #[test]
    fn a_handshake_ends_once_and_with_the_right_sequence_number() {
        let mut set = Set::default();
        begin(&mut set, CONNECTION, 7, 100);
        assert_eq!(end(&mut set, CONNECTION, Some(8), 102), None);
        assert_eq!(end(&mut set, CONNECTION, Some(7), 102), Some(100));
        assert_eq!(end(&mut set, CONNECTION, Some(7), 102), None);
    }

    #[test]
    fn expired_ones_make_room() {
        let mut set = Set::default();
        for n in 1..=4u64 {
            begin(&mut set, n << 40, 7, 100);
        }
        assert!(begin(&mut set, 9 << 40, 7, 108));
        assert_eq!(end(&mut set, 9 << 40, Some(7), 108), Some(108));
    }
}

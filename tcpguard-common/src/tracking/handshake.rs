//! The individual half-open handshakes, in a cache of sets of four.
//!
//! The cache distinguishes a retransmitted SYN from a new one, and a reset that ends a handshake from one that
//! ends an established connection. Only handshakes of sources with an entry are remembered, so random sources
//! cannot flush it. A cell lost to another handshake makes the accounting slightly less accurate, never for
//! longer than the handshake lifetime.
//!
//! A handshake is found by its client's address and port, because a handshake that is forwarded to another
//! network namespace completes there with another destination address and port (DNAT). What tells the
//! handshakes of one client port apart is the [`check`] of destination and initial sequence number.

use crate::{clock::WINDOW_PERIODS, hash, packet::UNKNOWN_CLASS};

/// The number of sets.
pub const SETS: u32 = 16_384;
/// Cells per set; a set fits in one cache line.
pub const WAYS: usize = 4;

/// One set as stored in the map.
pub type Set = [u64; WAYS];

/// What was observed when a handshake began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    /// The period in which it began.
    pub period: u32,
    /// The TTL or hop limit of its SYN.
    pub time_to_live: u8,
    /// The class of its SYN's shape ([`crate::packet::Shape::class`]).
    pub class: u8,
}

/// One remembered handshake, never [`EMPTY`]: tag of the client's address and port (24 bits), class of the SYN's
/// shape (8), [`check`] (16), TTL of the SYN (8) and the period in which it began (8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Handshake(u64);

/// Returns the index of the set in which the handshakes of a client port with this hash are remembered.
#[inline(always)]
pub const fn set(client_hash: u64) -> u32 {
    client_hash as u32 & (SETS - 1)
}

/// Returns what tells the handshakes of one client port apart: a tag of the destination and the SYN's sequence number. It
/// is keyed, like the hash of the connection: otherwise a flood to several addresses of the host could choose sequence
/// numbers with which all of its SYNs count as one.
#[inline(always)]
pub const fn check(connection_hash: u64, sequence: u32) -> u16 {
    hash::syn_tag(connection_hash, sequence)
}

/// Remembers a handshake that begins. Returns false if it is remembered already: the SYN is a retransmit. If the
/// set is full, one of its other handshakes is forgotten.
#[inline(always)]
pub const fn begin(set: &mut Set, client_hash: u64, check: u16, begun: Begun) -> bool {
    let now = begun.period;
    // The handshake to forget is chosen by bits that neither the set nor the tag consists of.
    let mut place = (client_hash >> 14) as usize % WAYS;
    let mut has_room = false;
    let mut way = 0;
    while way < WAYS {
        let handshake = Handshake(set[way]);
        if handshake.is(client_hash, check, now) {
            return false;
        }
        if !handshake.is_alive(now) {
            (place, has_room) = (way, true);
        } else if !has_room && handshake.is_of(client_hash, now) {
            place = way;
        }
        way += 1;
    }
    set[place] = Handshake::new(client_hash, check, begun).0;
    true
}

/// Forgets a handshake of a client port: the one with this check, or any if that is not known. Returns what was
/// observed when it began, or `None` if it was not remembered. If several SYNs of the client port are remembered,
/// some may be forged: TTL and class are then unknown ([`UNKNOWN_TTL`], [`UNKNOWN_CLASS`]).
#[inline(always)]
pub const fn end(set: &mut Set, client_hash: u64, check: Option<u16>, now: u32) -> Option<Begun> {
    let mut found: Option<Begun> = None;
    let mut way = 0;
    while way < WAYS {
        let handshake = Handshake(set[way]);
        let is_it = match check {
            Some(check) => handshake.is(client_hash, check, now),
            None => handshake.is_of(client_hash, now),
        };
        if is_it {
            match &mut found {
                None => {
                    set[way] = EMPTY;
                    found = Some(handshake.begun(now));
                }
                Some(begun) => (begun.time_to_live, begun.class) = (UNKNOWN_TTL, UNKNOWN_CLASS),
            }
        }
        way += 1;
    }
    found
}

/// A TTL that no packet arrives with.
pub const UNKNOWN_TTL: u8 = 0;

/// Returns whether a handshake of a client port is remembered.
#[inline(always)]
pub const fn is_remembered(set: &Set, client_hash: u64, now: u32) -> bool {
    let mut way = 0;
    while way < WAYS {
        if Handshake(set[way]).is_of(client_hash, now) {
            return true;
        }
        way += 1;
    }
    false
}

/// Returns whether the handshake of a client port with this check is remembered.
#[inline(always)]
pub const fn is_begun(set: &Set, client_hash: u64, check: u16, now: u32) -> bool {
    let mut way = 0;
    while way < WAYS {
        if Handshake(set[way]).is(client_hash, check, now) {
            return true;
        }
        way += 1;
    }
    false
}

const EMPTY: u64 = 0;

impl Handshake {
    #[inline(always)]
    const fn new(client_hash: u64, check: u16, begun: Begun) -> Self {
        Self(
            tag(client_hash)
                | (begun.class as u64) << 32
                | (check as u64) << 16
                | (begun.time_to_live as u64) << 8
                | begun.period as u64 & 0xff,
        )
    }

    /// Returns whether this is the handshake of that client port with that check, still alive.
    #[inline(always)]
    const fn is(self, client_hash: u64, check: u16, now: u32) -> bool {
        self.is_of(client_hash, now) && (self.0 >> 16) as u16 == check
    }

    /// Returns whether this is a handshake of that client port, still alive.
    #[inline(always)]
    const fn is_of(self, client_hash: u64, now: u32) -> bool {
        self.0 & TAG == tag(client_hash) && self.is_alive(now)
    }

    /// Returns whether the kernel may still hold the request.
    #[inline(always)]
    const fn is_alive(self, now: u32) -> bool {
        self.0 != EMPTY && self.age(now) < WINDOW_PERIODS as u64
    }

    /// Returns what was observed when it began, if that was at most 255 periods ago.
    #[inline(always)]
    const fn begun(self, now: u32) -> Begun {
        Begun {
            period: now.wrapping_sub(self.age(now) as u32),
            time_to_live: (self.0 >> 8) as u8,
            class: (self.0 >> 32) as u8,
        }
    }

    #[inline(always)]
    const fn age(self, now: u32) -> u64 {
        (now as u64).wrapping_sub(self.0) & 0xff
    }
}

/// The bits of the tag.
const TAG: u64 = 0xff_ffff << 40;

/// Returns the upper bits of the hash, which the set's index does not depend on; never 0.
#[inline(always)]
const fn tag(client_hash: u64) -> u64 {
    client_hash & TAG | 1 << 40
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: u64 = 0xfeed_beef_dead_cafe;

    /// The check of a handshake with a port of 192.0.2.1.
    fn check(port: u16, sequence: u32) -> u16 {
        super::check(hash::connection(CLIENT, core::net::Ipv4Addr::new(192, 0, 2, 1).into(), port), sequence)
    }

    const fn at(period: u32) -> Begun {
        Begun { period, time_to_live: 57, class: 9 }
    }

    #[test]
    fn a_syn_sent_again_is_recognised() {
        let the_check = check(443, 0x1234_5678);
        let handshake = Handshake::new(CLIENT, the_check, at(70_000));
        assert!(handshake.is(CLIENT, the_check, 70_000));
        assert!(handshake.is(CLIENT, the_check, 70_007));
        assert!(!handshake.is(CLIENT, check(443, 0x1234_5679), 70_000), "another sequence number");
        assert!(!handshake.is(CLIENT, check(444, 0x1234_5678), 70_000), "another destination port");
        assert!(!handshake.is(CLIENT ^ 1 << 50, the_check, 70_000), "another client port");
    }

    #[test]
    fn it_is_forgotten_when_the_kernel_forgets_it() {
        let handshake = Handshake::new(CLIENT, 1, at(70_000));
        assert!(!handshake.is(CLIENT, 1, 70_008));
        assert!(!handshake.is_of(CLIENT, 70_008));
    }

    #[test]
    fn what_was_observed_is_recovered_whole() {
        let begun = at(0x0001_fffe);
        assert_eq!(Handshake::new(CLIENT, 1, begun).begun(begun.period + 5), begun);
    }

    #[test]
    fn an_empty_cell_is_no_handshake() {
        for now in [0, 1, 256, u32::MAX] {
            assert!(!Handshake(EMPTY).is_of(0, now));
        }
        assert_ne!(Handshake::new(0, 0, Begun { period: 0, time_to_live: 0, class: 0 }).0, EMPTY);
    }

    #[test]
    fn a_set_remembers_four_and_forgets_one_for_the_fifth() {
        let mut set = Set::default();
        let clients: Vec<u64> = (1..=5u64).map(|n| n << 44 | n << 14).collect();
        for client in &clients[..4] {
            assert!(begin(&mut set, *client, 7, at(100)));
        }
        for client in &clients[..4] {
            assert!(!begin(&mut set, *client, 7, at(101)), "it is a retransmit");
        }
        assert!(begin(&mut set, clients[4], 7, at(101)));
        let remembered = clients.iter().filter(|client| end(&mut set, **client, None, 101).is_some()).count();
        assert_eq!(remembered, 4);
        assert_eq!(set, Set::default());
    }

    #[test]
    fn which_one_is_forgotten_depends_on_the_new_one() {
        let four: Vec<u64> = (1..=4u64).map(|n| n << 44 | n << 14).collect();
        let forgotten = |client: u64| {
            let mut set = Set::default();
            four.iter().for_each(|client| assert!(begin(&mut set, *client, 7, at(100))));
            assert!(begin(&mut set, client, 7, at(100)));
            four.iter().position(|client| !is_remembered(&set, *client, 100))
        };
        let mut places: Vec<usize> = (0..4u64).filter_map(|n| forgotten(9 << 44 | n << 14)).collect();
        places.sort_unstable();
        assert_eq!(places, [0, 1, 2, 3]);
    }

    #[test]
    fn one_client_port_has_handshakes_with_several_ports() {
        let mut set = Set::default();
        assert!(begin(&mut set, CLIENT, check(80, 9), at(100)));
        assert!(begin(&mut set, CLIENT, check(443, 9), at(100)));
        assert!(!begin(&mut set, CLIENT, check(80, 9), at(100)));
        assert!(is_remembered(&set, CLIENT, 100) && !is_remembered(&set, CLIENT ^ 1 << 50, 100));
        assert!(is_begun(&set, CLIENT, check(443, 9), 100) && !is_begun(&set, CLIENT, check(444, 9), 100));
        assert!(!is_begun(&set, CLIENT, check(443, 9), 108), "it has expired");
        assert_eq!(end(&mut set, CLIENT, Some(check(443, 9)), 100), Some(at(100)));
        assert!(begin(&mut set, CLIENT, check(443, 9), Begun { period: 100, time_to_live: 244, class: 9 }));
        let ambiguous = Some(Begun { period: 100, time_to_live: UNKNOWN_TTL, class: UNKNOWN_CLASS });
        assert_eq!(end(&mut set, CLIENT, None, 100), ambiguous, "one of the two SYNs may be forged");
        assert!(end(&mut set, CLIENT, None, 100).is_some_and(|begun| begun.time_to_live != UNKNOWN_TTL));
        assert!(!is_remembered(&set, CLIENT, 100));
    }

    #[test]
    fn a_handshake_ends_once_and_with_the_right_check() {
        let mut set = Set::default();
        begin(&mut set, CLIENT, 7, at(100));
        assert_eq!(end(&mut set, CLIENT, Some(8), 102), None);
        assert_eq!(end(&mut set, CLIENT, Some(7), 102), Some(at(100)));
        assert_eq!(end(&mut set, CLIENT, Some(7), 102), None);
    }

    #[test]
    fn expired_ones_make_room() {
        let mut set = Set::default();
        for n in 1..=4u64 {
            begin(&mut set, n << 44, 7, at(100));
        }
        assert!(begin(&mut set, 9 << 44, 7, at(108)));
        assert_eq!(end(&mut set, 9 << 44, Some(7), 108), Some(at(108)));
    }

    #[test]
    fn the_set_is_chosen_by_the_lowest_bits() {
        assert_eq!([0, 5, u64::from(SETS) + 7, 0xabcd_0000_0000_0003].map(set), [0, 5, 7, 3]);
    }
}

//! Safe reset: a SYN is answered by a SYN-ACK that acknowledges a wrong number. The client sends a reset with that number
//! (RFC 9293 3.10.7.3), which proves that it received the answer, and then its SYN once more: Linux after about 10 ms.
//!
//! The number lies at most [`RANGE`] below the SYN's sequence number, so that stateful firewalls on the client's side let
//! answer and reset pass (Linux' conntrack tolerates 66,000, `MAXACKWINCONST`), and its lower half is a code
//! ([`Secret::code`]) that only the holder of the secret can tell. Nothing is remembered about a SYN that was answered.
//!
//! A reset with the right code releases its flow: one SYN of it passes within [`RELEASED`] slots. A flow is found by the
//! client's address, the destination and the sequence number, which lies at most [`RANGE`] above the reset's, and not by the
//! client's port: an address translation that saw a reset may choose another one. The table of released flows
//! also holds those whose SYN has passed, so that a copy of the reset releases nothing.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{address::Address, siphash};

/// The number of codes. Whoever guesses finds the right one with one attempt in so many, or half as many while codes of two
/// epochs are accepted.
pub const RANGE: u32 = 1 << 16;

/// What codes are made with.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Secret {
    /// The key of [`siphash`].
    pub key: [u64; 2],
    /// The number of the epoch, by which codes expire.
    pub epoch: u64,
}

impl Secret {
    /// No secret. Its code can be told by everybody.
    pub const NONE: Self = Self { key: [0; 2], epoch: 0 };

    /// Returns the code of a flow, less than [`RANGE`].
    #[inline(always)]
    pub const fn code(self, source: Address, destination: Address, ports: u32) -> u32 {
        let last = (self.epoch << 32) | ports as u64;
        let hash = if source.is_ipv4() && destination.is_ipv4() {
            let addresses = (source.ipv4_be() as u64) << 32 | destination.ipv4_be() as u64;
            siphash::of_words(self.key, &[addresses, last])
        } else {
            let ([source_high, source_low], [high, low]) = (source.words(), destination.words());
            siphash::of_words(self.key, &[source_high, source_low, high, low, last])
        };
        hash as u32 & (RANGE - 1)
    }
}

/// Returns the source and destination port of a SYN as one number, as [`Secret::code`] expects them.
#[inline(always)]
pub const fn ports(source: u16, destination: u16) -> u32 {
    (source as u32) << 16 | destination as u32
}

/// Returns the number that the answer to a SYN with this sequence number acknowledges: the largest below it with this code.
#[inline(always)]
pub const fn acknowledgement(sequence: u32, code: u32) -> u32 {
    let below = sequence.wrapping_sub(1);
    below.wrapping_sub(below.wrapping_sub(code) & (RANGE - 1))
}

/// Returns the sequence number of an answer that acknowledges this number. Any number will do. This one is no secret: it tells
/// nothing that the answer does not tell anyway.
#[inline(always)]
pub const fn sequence_of_answer(acknowledgement: u32) -> u32 {
    acknowledgement.reverse_bits()
}

/// Returns whether a SYN-ACK with these numbers is such an answer, rather than that of a server.
#[inline(always)]
pub const fn is_answer(sequence: u32, acknowledgement: u32) -> bool {
    sequence == sequence_of_answer(acknowledgement)
}

/// Returns whether a reset with this sequence number has the code.
#[inline(always)]
pub const fn has_code(sequence: u32, code: u32) -> bool {
    sequence & (RANGE - 1) == code
}

/// The number of sets in the table of released flows.
pub const SETS: u32 = 16_384;
/// Cells per set; a set fits in one cache line.
pub const WAYS: usize = 4;
/// One set as stored in the map.
pub type Set = [u64; WAYS];
/// An odd number that is coprime to the number of sets, so that neighbouring sequence numbers fall into different sets.
const SPREAD: u32 = 0x9e35;

/// How long a flow stays released, in slots ([`crate::clock::Clock::slot`], about 1/8 s): as long as the implementation
/// that waits longest for its first retransmit takes (3 s, RFC 1122 4.2.3.1), and a little longer.
pub const RELEASED: u64 = 32;
/// How long it is remembered that a reset released its flow, in slots: as long as its code is accepted, and a little longer.
const REMEMBERED: u64 = 720;

/// A cell holds a tag of the flow (21 bits), the reset's sequence number (32), whether its SYN has passed (1) and
/// the time of the reset, in slots (10).
const TAG: u64 = !0 << 43;
const SEQUENCE_AT: u32 = 11;
const PASSED: u64 = 1 << 10;
const TIME: u64 = PASSED - 1;
const NAME: u64 = !(PASSED | TIME);

/// Returns the index of the set in which a flow is kept that a reset with this sequence number released. Many clients may have
/// one address: their sequence numbers spread them.
#[inline(always)]
pub const fn set_of_reset(flow_hash: u64, sequence: u32) -> u32 {
    (flow_hash as u32).wrapping_add((sequence >> 16).wrapping_mul(SPREAD)) & (SETS - 1)
}

/// Returns the indices of the two sets in which the flow of a SYN with this sequence number may be kept: the reset's number
/// has the same upper half as the one before the SYN's, or the half below.
#[inline(always)]
pub const fn sets_of_syn(flow_hash: u64, sequence: u32) -> [u32; 2] {
    let below = sequence.wrapping_sub(1);
    [set_of_reset(flow_hash, below), set_of_reset(flow_hash, below.wrapping_sub(RANGE))]
}

/// Releases the flow of a reset that has the code. Returns false if the same reset did so before.
#[inline(always)]
pub const fn release(set: &mut Set, flow_hash: u64, sequence: u32, slot: u32) -> bool {
    let name = tag(flow_hash) | (sequence as u64) << SEQUENCE_AT;
    let mut place = 0;
    let mut oldest = 0;
    let mut way = 0;
    while way < WAYS {
        let age = if set[way] == 0 { TIME } else { age(set[way], slot) };
        if set[way] & NAME == name && age <= REMEMBERED {
            return false;
        }
        if age >= oldest {
            (place, oldest) = (way, age);
        }
        way += 1;
    }
    set[place] = name | slot as u64 & TIME;
    true
}

/// What is known of the flow of a SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Nothing.
    Unknown,
    /// It is released, and no SYN of it has passed since.
    Released,
    /// A SYN of it has passed: this one is a retransmit.
    Passed,
}

/// Returns what one of its sets knows of the flow of a SYN with this sequence number, and takes note that the SYN passes if the
/// flow is released.
#[inline(always)]
pub const fn take(set: &mut Set, flow_hash: u64, sequence: u32, slot: u32) -> Flow {
    let mut way = 0;
    while way < WAYS {
        let cell = set[way];
        let of_reset = (cell >> SEQUENCE_AT) as u32;
        let is_of_flow = cell & TAG == tag(flow_hash) && sequence.wrapping_sub(1).wrapping_sub(of_reset) < RANGE;
        let age = age(cell, slot);
        if is_of_flow && cell & PASSED != 0 && age <= REMEMBERED {
            return Flow::Passed;
        }
        if is_of_flow && age <= RELEASED {
            set[way] = cell | PASSED;
            return Flow::Released;
        }
        way += 1;
    }
    Flow::Unknown
}

/// Returns the uppermost bits of the hash, which the index does not depend on; never 0.
#[inline(always)]
const fn tag(flow_hash: u64) -> u64 {
    (flow_hash & TAG) | 1 << 43
}

#[inline(always)]
const fn age(cell: u64, slot: u32) -> u64 {
    (slot as u64).wrapping_sub(cell) & TIME
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const SECRET: Secret = Secret { key: [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210], epoch: 7 };
    const CONNECTION: u64 = 0xabcd_ef01_2345_6789;

    fn code_of(secret: Secret, source: &str, destination: &str, ports: u32) -> u32 {
        let address = |text: &str| match text.parse::<Ipv4Addr>() {
            Ok(ipv4) => Address::from(ipv4),
            Err(_) => text.parse::<Ipv6Addr>().expect("an address").into(),
        };
        secret.code(address(source), address(destination), ports)
    }

    #[test]
    fn the_code_depends_on_everything() {
        let other_key = Secret { key: [SECRET.key[0] ^ 1, SECRET.key[1]], ..SECRET };
        let other_half = Secret { key: [SECRET.key[0], SECRET.key[1] ^ 1], ..SECRET };
        let next_epoch = Secret { epoch: 8, ..SECRET };
        let codes = [
            code_of(SECRET, "198.18.0.1", "198.18.0.2", 1),
            code_of(other_key, "198.18.0.1", "198.18.0.2", 1),
            code_of(other_half, "198.18.0.1", "198.18.0.2", 1),
            code_of(next_epoch, "198.18.0.1", "198.18.0.2", 1),
            code_of(SECRET, "198.18.0.3", "198.18.0.2", 1),
            code_of(SECRET, "198.18.0.1", "198.18.0.3", 1),
            code_of(SECRET, "198.18.0.1", "198.18.0.2", 2),
            code_of(SECRET, "2001:db8::1", "2001:db8::2", 1),
            code_of(SECRET, "2001:db9::1", "2001:db8::2", 1),
            code_of(SECRET, "2001:db8::2", "2001:db8::1", 1),
            code_of(SECRET, "2001:db8::1", "2001:db8:1::2", 1),
            code_of(SECRET, "2001:db8::1", "2001:db8::2", 2),
        ];
        for (place, code) in codes.iter().enumerate() {
            assert!(*code < RANGE);
            assert!(!codes[..place].contains(code), "{codes:?}");
        }
    }

    #[test]
    fn a_reset_returns_the_code_of_a_number_below_the_syns() {
        for code in [0, 1, 29_999, RANGE - 1] {
            for sequence in [0, 1, 5, RANGE - 1, RANGE, RANGE + 1, 1_000_000, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
                let number = acknowledgement(sequence, code);
                assert!((1..=RANGE).contains(&sequence.wrapping_sub(number)), "{sequence} {code}: {number}");
                assert!(has_code(number, code) && !has_code(number, (code + 1) % RANGE));
                assert!(sets_of_syn(CONNECTION, sequence).contains(&set_of_reset(CONNECTION, number)));
            }
        }
    }

    #[test]
    fn the_flows_of_one_address_spread_over_the_sets() {
        let sets: std::collections::HashSet<u32> = (0..4096).map(|n| set_of_reset(CONNECTION, n << 16)).collect();
        assert_eq!(sets.len(), 4096);
    }

    #[test]
    fn one_syn_passes_for_each_reset() {
        let mut set = Set::default();
        assert_eq!(take(&mut set, CONNECTION, 100_000, 50), Flow::Unknown);
        assert!(release(&mut set, CONNECTION, 90_000, 50));
        assert_eq!(take(&mut set, CONNECTION ^ 1 << 50, 100_000, 50), Flow::Unknown, "another flow");
        assert_eq!(
            take(&mut set, CONNECTION, 90_000, 50),
            Flow::Unknown,
            "the reset answers no SYN with a lower number"
        );
        assert_eq!(take(&mut set, CONNECTION, 90_001 + RANGE, 50), Flow::Unknown, "nor one with a much higher number");
        assert_eq!(take(&mut set, CONNECTION, 90_000 + RANGE, 50 + RELEASED as u32), Flow::Released);
        assert_eq!(take(&mut set, CONNECTION, 90_000 + RANGE, 51), Flow::Passed, "once");
    }

    #[test]
    fn a_release_expires_and_is_not_repeated() {
        let mut set = Set::default();
        let remembered = REMEMBERED as u32;
        assert!(release(&mut set, CONNECTION, 90_000, 1000));
        assert!(!release(&mut set, CONNECTION, 90_000, 1000), "a copy of the reset");
        assert_eq!(take(&mut set, CONNECTION, 90_001, 1001 + RELEASED as u32), Flow::Unknown);
        assert!(!release(&mut set, CONNECTION, 90_000, 1000 + remembered), "also when the flow is no longer released");
        assert!(release(&mut set, CONNECTION, 90_000, 1001 + remembered));
        assert_eq!(take(&mut set, CONNECTION, 90_001, 1002 + remembered), Flow::Released);
        assert!(!release(&mut set, CONNECTION, 90_000, 1003 + remembered), "its SYN has passed");
        assert!(release(&mut set, CONNECTION, 195_000, 1003 + remembered), "that of another SYN");
        assert_eq!(take(&mut set, CONNECTION, 90_001, 1001 + 2 * remembered), Flow::Passed);
        assert_eq!(take(&mut set, CONNECTION, 90_001, 1002 + 2 * remembered), Flow::Unknown, "forgotten");
    }

    #[test]
    fn the_oldest_release_is_forgotten() {
        let mut set = Set::default();
        for number in 0..5 {
            assert!(release(&mut set, CONNECTION, number * RANGE, 10 + number));
        }
        assert_eq!(take(&mut set, CONNECTION, 1, 20), Flow::Unknown);
        for number in 1..5 {
            assert_eq!(take(&mut set, CONNECTION, number * RANGE + 1, 20), Flow::Released);
        }
    }

    #[test]
    fn time_wraps() {
        let mut set = Set::default();
        assert!(release(&mut set, CONNECTION, 90_000, 1020));
        assert_eq!(take(&mut set, CONNECTION, 90_001, 1030), Flow::Released);
    }
}

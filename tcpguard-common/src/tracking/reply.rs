//! The SYN-ACKs that were sent for other hosts or network namespaces, in a cache of sets of four. A segment of the client
//! that acknowledges one of them completes its handshake: the sequence number of a SYN-ACK is known to those alone who
//! receive it (RFC 6528), so that the sender of that segment has the address that it shows.
//!
//! A reply is found by its client's address and port. What is remembered of it is its sequence number, combined with its
//! connection ([`number`]): it can be acknowledged to its server alone.

use crate::clock::WINDOW_PERIODS;

/// The number of sets.
pub const SETS: u32 = 16_384;
/// Cells per set; a set fits in one cache line.
pub const WAYS: usize = 4;

/// One set as stored in the map.
pub type Set = [u64; WAYS];

/// What is known of a SYN-ACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// It was sent for the first time.
    First,
    /// It was sent before.
    Again,
}

/// One remembered SYN-ACK, never [`EMPTY`]: tag of the client's address and port (15 bits), that of the connection (8), whether
/// it was acknowledged (1), its [`number`] (32) and the period in which it was sent (8).
#[derive(Clone, Copy, PartialEq, Eq)]
struct Reply(u64);

const EMPTY: u64 = 0;
/// The tag of the client.
const CLIENT: u64 = 0x7fff << CLIENT_AT;
const CLIENT_AT: u32 = 49;
/// The tag of the connection.
const CONNECTION: u64 = 0xff << CONNECTION_AT;
const CONNECTION_AT: u32 = 41;
const ACKNOWLEDGED: u64 = 1 << 40;

/// Returns what is remembered of a SYN-ACK with this sequence number, of a connection with this hash.
#[inline(always)]
const fn number(connection_hash: u64, sequence: u32) -> u32 {
    sequence ^ connection_hash as u32
}

/// Returns the index of the set in which the replies to a client port with this hash are remembered.
#[inline(always)]
pub const fn set(client_hash: u64) -> u32 {
    client_hash as u32 & (SETS - 1)
}

/// Remembers a SYN-ACK. If the set is full, one of its other replies is forgotten.
#[inline(always)]
pub const fn note(set: &mut Set, client_hash: u64, connection_hash: u64, sequence: u32, now: u32) -> Noted {
    let number = number(connection_hash, sequence);
    // The reply to forget is chosen by bits that neither the set nor the tag consists of.
    let mut place = (client_hash >> 14) as usize % WAYS;
    let mut way = 0;
    while way < WAYS {
        let reply = Reply(set[way]);
        if reply.is(client_hash, number, now) {
            return Noted::Again;
        }
        if !reply.is_alive(now) {
            place = way;
        }
        way += 1;
    }
    set[place] = Reply::new(client_hash, connection_hash, number, now).0;
    Noted::First
}

/// Returns whether a SYN-ACK with this number was sent to a client port and is acknowledged for the first time.
#[inline(always)]
pub const fn acknowledge(set: &mut Set, client_hash: u64, connection_hash: u64, sequence: u32, now: u32) -> bool {
    let number = number(connection_hash, sequence);
    let mut way = 0;
    while way < WAYS {
        let reply = Reply(set[way]);
        if reply.is(client_hash, number, now) {
            set[way] |= ACKNOWLEDGED;
            return reply.0 & ACKNOWLEDGED == 0;
        }
        way += 1;
    }
    false
}

/// Ends the handshakes of a connection, so that none of them can be acknowledged any more. Returns whether there were any.
#[inline(always)]
pub const fn end(set: &mut Set, client_hash: u64, connection_hash: u64, now: u32) -> bool {
    let mut had_open = false;
    let mut way = 0;
    while way < WAYS {
        let reply = Reply(set[way]);
        if reply.is_open(client_hash, connection_hash, now) {
            set[way] |= ACKNOWLEDGED;
            had_open = true;
        }
        way += 1;
    }
    had_open
}

/// Returns whether a SYN-ACK of a connection waits to be acknowledged.
#[inline(always)]
pub const fn is_open(set: &Set, client_hash: u64, connection_hash: u64, now: u32) -> bool {
    let mut way = 0;
    while way < WAYS {
        let reply = Reply(set[way]);
        if reply.is_open(client_hash, connection_hash, now) {
            return true;
        }
        way += 1;
    }
    false
}

/// Returns whether any SYN-ACK was sent to a client port.
#[inline(always)]
pub const fn is_known(set: &Set, client_hash: u64, now: u32) -> bool {
    has_any(set, client_hash, now, 0)
}

/// Returns whether a client port acknowledged a SYN-ACK.
#[inline(always)]
pub const fn was_acknowledged(set: &Set, client_hash: u64, now: u32) -> bool {
    has_any(set, client_hash, now, ACKNOWLEDGED)
}

#[inline(always)]
const fn has_any(set: &Set, client_hash: u64, now: u32, bits: u64) -> bool {
    let mut way = 0;
    while way < WAYS {
        let reply = Reply(set[way]);
        if reply.is_to(client_hash, now) && reply.0 & bits == bits {
            return true;
        }
        way += 1;
    }
    false
}

impl Reply {
    #[inline(always)]
    const fn new(client_hash: u64, connection_hash: u64, number: u32, now: u32) -> Self {
        Self(tag(client_hash) | connection_tag(connection_hash) | (number as u64) << 8 | now as u64 & 0xff)
    }

    #[inline(always)]
    const fn is(self, client_hash: u64, number: u32, now: u32) -> bool {
        self.is_to(client_hash, now) && (self.0 >> 8) as u32 == number
    }

    #[inline(always)]
    const fn is_open(self, client_hash: u64, connection_hash: u64, now: u32) -> bool {
        self.is_to(client_hash, now)
            && self.0 & CONNECTION == connection_tag(connection_hash)
            && self.0 & ACKNOWLEDGED == 0
    }

    #[inline(always)]
    const fn is_to(self, client_hash: u64, now: u32) -> bool {
        self.0 & CLIENT == tag(client_hash) && self.is_alive(now)
    }

    /// Returns whether the server may still hold the request.
    #[inline(always)]
    const fn is_alive(self, now: u32) -> bool {
        self.0 != EMPTY && (now as u64).wrapping_sub(self.0) & 0xff < WINDOW_PERIODS as u64
    }
}

/// Returns the upper bits of the hash, which the set's index does not depend on; never 0.
#[inline(always)]
const fn tag(client_hash: u64) -> u64 {
    client_hash & CLIENT | 1 << CLIENT_AT
}

#[inline(always)]
const fn connection_tag(connection_hash: u64) -> u64 {
    // Its lower half is a part of the number.
    connection_hash >> 32 << CONNECTION_AT & CONNECTION
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: u64 = 0xfeed_beef_dead_cafe;
    const OTHER: u64 = PEER ^ 1 << 50;
    const SHOP: u64 = 0x1111_0007_2222_3333;
    const MAIL: u64 = 0x1111_0008_2222_3334;

    #[test]
    fn a_reply_is_acknowledged_once_with_its_number_by_its_client() {
        let mut set = Set::default();
        assert_eq!(note(&mut set, PEER, SHOP, 0xffff_ffff, 300), Noted::First);
        assert_eq!(note(&mut set, PEER, SHOP, 0xffff_ffff, 301), Noted::Again, "it was retransmitted");
        assert!(!acknowledge(&mut set, PEER, SHOP, 0xffff_fffe, 301), "another number");
        assert!(!acknowledge(&mut set, OTHER, SHOP, 0xffff_ffff, 301), "another client");
        assert!(is_known(&set, PEER, 301) && !was_acknowledged(&set, PEER, 301));
        assert!(acknowledge(&mut set, PEER, SHOP, 0xffff_ffff, 301));
        assert!(was_acknowledged(&set, PEER, 301) && !was_acknowledged(&set, OTHER, 301));
        assert!(!acknowledge(&mut set, PEER, SHOP, 0xffff_ffff, 302), "data follows");
        assert_eq!(note(&mut set, PEER, SHOP, 0xffff_ffff, 302), Noted::Again);
    }

    #[test]
    fn it_can_be_acknowledged_to_its_server_alone() {
        let mut set = Set::default();
        note(&mut set, PEER, SHOP, 77, 9);
        assert!(!acknowledge(&mut set, PEER, MAIL, 77, 9), "another server");
        assert!(acknowledge(&mut set, PEER, SHOP, 77, 9));
    }

    #[test]
    fn what_was_reset_cannot_be_acknowledged() {
        let mut set = Set::default();
        assert!(!end(&mut set, PEER, SHOP, 9) && !is_open(&set, PEER, SHOP, 9));
        note(&mut set, PEER, SHOP, 7, 9);
        assert!(is_open(&set, PEER, SHOP, 10) && !is_open(&set, OTHER, SHOP, 10) && !end(&mut set, OTHER, SHOP, 10));
        assert!(end(&mut set, PEER, SHOP, 10) && !end(&mut set, PEER, SHOP, 10) && !is_open(&set, PEER, SHOP, 10));
        assert!(!acknowledge(&mut set, PEER, SHOP, 7, 10));
        note(&mut set, PEER, SHOP, 8, 10);
        assert!(!is_open(&set, PEER, MAIL, 10) && !end(&mut set, PEER, MAIL, 10), "another server");
        assert!(is_open(&set, PEER, SHOP, 10) && !is_open(&set, PEER, SHOP, 18));
    }

    #[test]
    fn it_is_forgotten_when_the_server_forgets_it() {
        let mut set = Set::default();
        note(&mut set, PEER, SHOP, 7, 250);
        assert!(is_known(&set, PEER, 257) && !is_known(&set, PEER, 258));
        assert!(!acknowledge(&mut set, PEER, SHOP, 7, 258));
        assert_eq!(note(&mut set, PEER, SHOP, 7, 258), Noted::First);
    }

    #[test]
    fn one_client_port_has_several_servers() {
        let mut set = Set::default();
        for sequence in 1..=4 {
            assert_eq!(note(&mut set, PEER, SHOP, sequence, 9), Noted::First);
        }
        assert!((1..=4).all(|sequence| acknowledge(&mut set, PEER, SHOP, sequence, 9)));
        assert_eq!(note(&mut set, OTHER, SHOP, 5, 9), Noted::First, "one of the four is forgotten");
        assert!(acknowledge(&mut set, OTHER, SHOP, 5, 9));
        assert_eq!((1..=4).filter(|sequence| note(&mut set, PEER, SHOP, *sequence, 9) == Noted::Again).count(), 3);
    }

    #[test]
    fn an_empty_cell_is_no_reply() {
        for now in [0, 1, 256, u32::MAX] {
            assert!(!is_known(&Set::default(), 0, now) && !acknowledge(&mut Set::default(), 0, SHOP, 0, now));
        }
    }

    #[test]
    fn the_set_is_chosen_by_the_lowest_bits() {
        assert_eq!([0, 5, u64::from(SETS) + 7, 0xabcd_0000_0000_0003].map(set), [0, 5, 7, 3]);
    }
}

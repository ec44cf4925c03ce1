//! Cookies that have already created a connection. Once that connection is closed, the kernel would create
//! another one from the same cookie for as long as the cookie is valid.
//!
//! A returned cookie is noted; it is spent once the kernel reports the handshake as completed. A cookie for
//! whose connection the kernel had no room remains usable, because the client sends it again.

use crate::clock::COOKIE_SECONDS;

/// The number of sets.
pub const SETS: u32 = 16_384;
/// Cells per set; a set fits in one cache line.
pub const WAYS: usize = 4;

/// One set as stored in the map.
pub type Set = [u64; WAYS];

/// The bit of a cell that marks a spent cookie. A cell holds the connection tag (32 bits), the folded
/// acknowledgement number (16), this bit (1) and the time of the return, in periods of about a second (15).
const SPENT: u64 = 1 << 15;
const TIME: u64 = SPENT - 1;
/// The number of periods (about 1 s each) within which a client's first segments arrive.
const FOLLOWS_WITHIN: u64 = 2;

/// Returns the index of the set in which a connection with this hash is noted.
#[inline(always)]
pub const fn set(connection_hash: u64) -> u32 {
    connection_hash as u32 & (SETS - 1)
}

/// The state of a returned cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Returned {
    /// It was returned for the first time.
    First,
    /// It was returned before, but its handshake has not been completed.
    Again,
    /// It has already created a connection.
    Spent,
}

/// Notes a cookie returned by a segment with this acknowledgement number, and returns the cookie's state.
#[inline(always)]
pub const fn note(set: &mut Set, connection_hash: u64, acknowledgement: u32, second: u32) -> Returned {
    let name = name(connection_hash, acknowledgement);
    let mut place = (connection_hash >> 14) as usize % WAYS;
    let mut way = 0;
    while way < WAYS {
        let is_old = age(set[way], second) > COOKIE_SECONDS as u64;
        if set[way] & !0xffff == name && !is_old {
            return if set[way] & SPENT == 0 { Returned::Again } else { Returned::Spent };
        }
        if is_old {
            place = way;
        }
        way += 1;
    }
    set[place] = name | second as u64 & TIME;
    Returned::First
}

/// Returns whether a segment follows one that returned its cookie a slot ago. The kernel creates the
/// connection only when it processes the first segment, and the client's next segments may arrive in the same
/// batch.
#[inline(always)]
pub const fn follows(set: &Set, connection_hash: u64, acknowledgement: u32, second: u32) -> bool {
    let name = name(connection_hash, acknowledgement);
    let mut way = 0;
    while way < WAYS {
        if set[way] & !0xffff == name && age(set[way], second) <= FOLLOWS_WITHIN {
            return true;
        }
        way += 1;
    }
    false
}

/// Returns whether a segment has the acknowledgement number of one that returned its cookie. The connection
/// that the cookie created may no longer exist.
#[inline(always)]
pub const fn acknowledges(set: &Set, connection_hash: u64, acknowledgement: u32) -> bool {
    let name = name(connection_hash, acknowledgement);
    let mut way = 0;
    while way < WAYS {
        if set[way] & !0xffff == name {
            return true;
        }
        way += 1;
    }
    false
}

#[inline(always)]
const fn name(connection_hash: u64, acknowledgement: u32) -> u64 {
    let folded = acknowledgement ^ (acknowledgement >> 16);
    tag(connection_hash) | (folded as u64) << 16 & 0xffff_0000
}

/// Marks the cookies of a connection as spent, because its handshake was completed.
#[inline(always)]
pub const fn spend(set: &mut Set, connection_hash: u64) {
    let mut way = 0;
    while way < WAYS {
        if set[way] & !0xffff_ffff == tag(connection_hash) {
            set[way] |= SPENT;
        }
        way += 1;
    }
}

#[inline(always)]
const fn age(cell: u64, second: u32) -> u64 {
    (second as u64).wrapping_sub(cell) & TIME
}

/// Returns the upper half of the hash, which the cell's index does not depend on; never 0.
#[inline(always)]
const fn tag(connection_hash: u64) -> u64 {
    connection_hash & !0xffff_ffff | 1 << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_good_until_its_handshake_is_complete() {
        let (mut set, connection) = (Set::default(), 0x1234_5678_9abc_def0);
        use Returned::{Again, First, Spent};
        assert_eq!(note(&mut set, connection, 77, 1000), First);
        assert_eq!(note(&mut set, connection, 77, 1001), Again, "the kernel had no room for it");
        assert!(follows(&set, connection, 77, 1002) && !follows(&set, connection, 77, 1003));
        assert!(acknowledges(&set, connection, 77) && !acknowledges(&set, connection, 78));
        assert!(!follows(&set, connection, 78, 1000) && !follows(&set, connection ^ 1 << 40, 77, 1000));
        spend(&mut set, connection);
        assert_eq!(note(&mut set, connection, 77, 1002), Spent);
        assert_eq!(note(&mut set, connection, 78, 1002), First, "another cookie of the same connection");
        assert_eq!(note(&mut set, connection ^ 1 << 40, 77, 1002), First, "another connection");
        assert_eq!(note(&mut set, connection, 77, 1000 + COOKIE_SECONDS + 1), First, "no longer valid anyway");
    }

    #[test]
    fn the_set_is_chosen_by_the_lowest_bits_which_cells_do_not_hold() {
        assert_eq!([0, 5, 16_383, 16_384, 0xabcd_0000_4003].map(set), [0, 5, 16_383, 0, 3]);
        assert_eq!(tag(0xabcd_0000_1234_5678), 0xabcd_0001_0000_0000);
        assert_eq!(name(0xabcd_0000_1234_5678, 0x0005_0003), 0xabcd_0001_0006_0000);
    }

    #[test]
    fn what_is_old_makes_room_and_what_is_not_stays() {
        let connection = |number: u64| number << 40;
        let mut set = Set::default();
        for number in 1..=4 {
            // All cells are old at first, the last of them is taken.
            assert_eq!(note(&mut set, connection(number), 77, 1000), Returned::First);
        }
        let others = (1..=4).filter(|number| acknowledges(&set, connection(*number), 77)).count();
        assert_eq!(others, 4, "each has a cell of its own");
        // Without an old cell, the hash chooses the one that is replaced.
        let newest = connection(5) | 2 << 14;
        assert_eq!(note(&mut set, newest, 77, 1000), Returned::First);
        assert_eq!(set[2] & !0xffff, name(newest, 77));
        let last_second = 1000 + COOKIE_SECONDS;
        assert_eq!(note(&mut set, newest, 77, last_second), Returned::Again, "as long as it is valid");
        assert_eq!(note(&mut set, newest, 77, last_second + 1), Returned::First, "and no longer");
    }
}

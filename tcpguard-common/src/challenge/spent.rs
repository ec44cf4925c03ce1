//! Which cookies a connection was made by. The kernel would make another one by the same cookie for as long as
//! it is valid, once the first connection is closed.
//!
//! A cookie that comes back is noted; the kernel's word that the handshake is complete makes it spent. One
//! that the kernel had no room for is still good, as its client sends it again.

use crate::clock::COOKIE_SECONDS;

/// Sets.
pub const SETS: u32 = 16_384;
/// Cells of a set, within one cache line.
pub const WAYS: usize = 4;

/// One set as it stands in the map.
pub type Set = [u64; WAYS];

/// A cell: connection tag (32 bits), what the segment acknowledged (16), whether it is spent (1), and when it
/// came, in periods of about a second (15).
const SPENT: u64 = 1 << 15;
const TIME: u64 = SPENT - 1;
/// Periods of about a second within which a client's first segments come.
const FOLLOWS_WITHIN: u64 = 2;

/// The set that a connection of this hash is noted in.
#[inline(always)]
pub const fn set(connection_hash: u64) -> u32 {
    connection_hash as u32 & (SETS - 1)
}

/// What is known of a cookie that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Returned {
    /// It came for the first time.
    First,
    /// It came before.
    Again,
    /// A connection was made by it.
    Spent,
}

/// Notes a cookie that came back in `acknowledgement`.
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

/// Whether a segment follows one that brought its cookie back a moment ago: the kernel makes the connection only
/// when it gets to see that one, and what a client sends with it may come in the same batch.
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

/// Whether a segment acknowledges what one did that brought its cookie back: the connection may be gone that was
/// made by it.
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

/// Its handshake is complete.
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

/// The upper half of the hash, which the place is not made of; never 0.
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
}

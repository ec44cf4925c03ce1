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

/// The set that a connection of this hash is noted in.
#[inline(always)]
pub const fn set(connection_hash: u64) -> u32 {
    connection_hash as u32 & (SETS - 1)
}

/// Notes a cookie that came back in `acknowledgement`; false where it is spent.
#[inline(always)]
pub const fn note(set: &mut Set, connection_hash: u64, acknowledgement: u32, second: u32) -> bool {
    let name = tag(connection_hash) | ((acknowledgement ^ acknowledgement >> 16) as u64) << 16 & 0xffff_0000;
    let mut place = (connection_hash >> 14) as usize % WAYS;
    let mut way = 0;
    while way < WAYS {
        let is_old = age(set[way], second) > COOKIE_SECONDS as u64;
        if set[way] & !0xffff == name && !is_old {
            return set[way] & SPENT == 0;
        }
        if is_old {
            place = way;
        }
        way += 1;
    }
    set[place] = name | second as u64 & TIME;
    true
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
        assert!(note(&mut set, connection, 77, 1000));
        assert!(note(&mut set, connection, 77, 1001), "the kernel had no room for it");
        spend(&mut set, connection);
        assert!(!note(&mut set, connection, 77, 1002));
        assert!(note(&mut set, connection, 78, 1002), "another cookie of the same connection");
        assert!(note(&mut set, connection ^ 1 << 40, 77, 1002), "another connection");
        assert!(note(&mut set, connection, 77, 1000 + COOKIE_SECONDS + 1), "no longer valid anyway");
    }
}

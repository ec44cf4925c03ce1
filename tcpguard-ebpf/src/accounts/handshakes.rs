//! The cache of half-open handshakes.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use tcpguard_common::{
    handshake::{self, SETS, Set},
    hash,
    packet::Segment,
};

use crate::{
    arrival::{Source, connection_of},
    socket::Handshake,
};

#[btf_map]
static HANDSHAKES: Array<Set, { SETS as usize }> = Array::new();

/// A SYN arrived: false where it is one that was counted before.
#[inline(always)]
pub fn begin(source: Source, segment: &Segment, now: u32) -> bool {
    let connection = connection_of(source, segment);
    set(connection).is_none_or(|set| handshake::begin(set, connection, segment.sequence, now))
}

/// Forgets the handshake that a SYN began: its end must not be counted, since its beginning is not.
#[inline(always)]
pub fn forget(source: Source, segment: &Segment, now: u32) {
    let connection = connection_of(source, segment);
    if let Some(set) = set(connection) {
        handshake::end(set, connection, Some(segment.sequence), now);
    }
}

/// A reset arrived: the period its handshake began in, where it ends one. Its sequence number is then
/// the one after the SYN's (RFC 9293 3.10.7.3), as the SYN-ACK asked for.
#[inline(always)]
pub fn reset(source: Source, segment: &Segment, now: u32) -> Option<u32> {
    let connection = connection_of(source, segment);
    handshake::end(set(connection)?, connection, Some(segment.sequence.wrapping_sub(1)), now)
}

/// A handshake was completed: the period it began in, where it is remembered.
#[inline(always)]
pub fn complete(source: Source, handshake: &Handshake, now: u32) -> Option<u32> {
    let connection = hash::connection(source.hash, handshake.remote_port, handshake.local_port);
    handshake::end(set(connection)?, connection, None, now)
}

#[inline(always)]
fn set<'a>(connection: u64) -> Option<&'a mut Set> {
    let set = HANDSHAKES.get_ptr_mut(handshake::set(connection))?;
    // SAFETY: elements of an array live as long as the program, and a word is written at once:
    // two CPUs at the same cell leave one handshake or the other.
    Some(unsafe { &mut *set })
}

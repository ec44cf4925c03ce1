//! The cache of half-open handshakes.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use tcpguard_common::{
    hash,
    packet::Segment,
    tracking::handshake::{self, SETS, Set},
};

use crate::{
    kernel::handshake::Handshake,
    source::{Source, connection_of},
};

#[btf_map]
static HANDSHAKES: Array<Set, { SETS as usize }> = Array::new();

/// Remembers the handshake that a SYN begins; returns false if the SYN is a retransmit.
#[inline(always)]
pub fn begin(source: Source, segment: &Segment, now: u32) -> bool {
    let connection = connection_of(source, segment);
    set(connection).is_none_or(|set| handshake::begin(set, connection, segment.sequence, now))
}

/// Forgets the handshake that a SYN began: its end must not be counted, because its beginning is not.
#[inline(always)]
pub fn forget(source: Source, segment: &Segment, now: u32) {
    let connection = connection_of(source, segment);
    if let Some(set) = set(connection) {
        handshake::end(set, connection, Some(segment.sequence), now);
    }
}

/// Forgets the handshake that a reset ends, and returns the period in which it began. The sequence number of such a
/// reset is the one after the SYN's (RFC 9293 3.10.7.3), which the SYN-ACK acknowledged.
#[inline(always)]
pub fn reset(source: Source, segment: &Segment, now: u32) -> Option<u32> {
    let connection = connection_of(source, segment);
    handshake::end(set(connection)?, connection, Some(segment.sequence.wrapping_sub(1)), now)
}

/// Forgets a completed handshake, and returns the period in which it began if it is remembered.
#[inline(always)]
pub fn complete(source: Source, handshake: &Handshake, now: u32) -> Option<u32> {
    let connection = hash::connection(source.hash, handshake.remote_port, handshake.local_port);
    handshake::end(set(connection)?, connection, None, now)
}

#[inline(always)]
fn set<'a>(connection: u64) -> Option<&'a mut Set> {
    let set = HANDSHAKES.get_ptr_mut(handshake::set(connection))?;
    // SAFETY: elements of an array live as long as the program, and one word is written at once:
    // two CPUs at the same cell leave one handshake or the other.
    Some(unsafe { &mut *set })
}

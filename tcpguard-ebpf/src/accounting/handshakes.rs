//! The cache of half-open handshakes.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use tcpguard_common::{
    hash,
    packet::{Segment, Shape},
    tracking::handshake::{self, Begun, SETS, Set, check},
};

use crate::{
    kernel::handshake::Handshake,
    source::{Source, client_of, connection_of},
};

#[btf_map]
static HANDSHAKES: Array<Set, { SETS as usize }> = Array::new();

/// Remembers the handshake that a SYN begins; returns false if the SYN is a retransmit.
#[inline(always)]
pub fn begin(source: Source, segment: &Segment, now: u32) -> bool {
    let client = client_of(source, segment);
    let begun = Begun { period: now, time_to_live: segment.time_to_live, class: Shape::of(segment).class() };
    let check = check(connection_of(client, segment), segment.sequence);
    set(client).is_none_or(|set| handshake::begin(set, client, check, begun))
}

/// Forgets the handshake that a reset ends, and returns what was observed when it began. The sequence number of such a
/// reset is the one after the SYN's (RFC 9293 3.10.7.3), which the SYN-ACK acknowledged.
#[inline(always)]
pub fn reset(source: Source, segment: &Segment, now: u32) -> Option<Begun> {
    let client = client_of(source, segment);
    let check = check(connection_of(client, segment), segment.sequence.wrapping_sub(1));
    handshake::end(set(client)?, client, Some(check), now)
}

/// Forgets a completed handshake, and returns what was observed when it began if it is remembered. The kernel's
/// destination port is not compared: it differs for a handshake that was redirected.
#[inline(always)]
pub fn complete(source: Source, handshake: &Handshake, now: u32) -> Option<Begun> {
    let client = hash::client(source.hash, handshake.remote_port);
    handshake::end(set(client)?, client, None, now)
}

/// Forgets a handshake of a client port with this hash, and returns what was observed when it began.
#[inline(always)]
pub fn complete_of(client: u64, now: u32) -> Option<Begun> {
    handshake::end(set(client)?, client, None, now)
}

/// Forgets a handshake of a client port with this hash and this check; returns false if it is not remembered.
#[inline(always)]
pub fn refuse(client: u64, check: u16, now: u32) -> bool {
    set(client).is_some_and(|set| handshake::end(set, client, Some(check), now).is_some())
}

/// Returns whether a handshake of a client port with this hash and this check is remembered.
#[inline(always)]
pub fn is_begun(client: u64, check: u16, now: u32) -> bool {
    set(client).is_some_and(|set| handshake::is_begun(set, client, check, now))
}

/// Returns whether the SYN of a handshake was received here.
#[inline(always)]
pub fn is_remembered(source: Source, handshake: &Handshake, now: u32) -> bool {
    let client = hash::client(source.hash, handshake.remote_port);
    set(client).is_some_and(|set| handshake::is_remembered(set, client, now))
}

#[inline(always)]
fn set<'a>(client: u64) -> Option<&'a mut Set> {
    let set = HANDSHAKES.get_ptr_mut(handshake::set(client))?;
    // SAFETY: elements of an array live as long as the program, and one word is written at once:
    // two CPUs at the same cell leave one handshake or the other.
    Some(unsafe { &mut *set })
}

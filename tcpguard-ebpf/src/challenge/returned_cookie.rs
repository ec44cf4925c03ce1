//! The cookies that were returned.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use tcpguard_common::{
    challenge::returned_cookie::{self, Returned, SETS, Set},
    hash,
    packet::Segment,
};

use crate::{kernel::handshake::Handshake, source::Source, time::Now};

#[btf_map]
static RETURNED_COOKIES: Array<Set, { SETS as usize }> = Array::new();

/// Notes a valid cookie that was returned.
#[inline(always)]
pub fn note(connection: u64, segment: &Segment, now: Now) -> Returned {
    set(connection)
        .map_or(Returned::Again, |set| returned_cookie::note(set, connection, segment.acknowledgement, now.second()))
}

/// Returns whether a segment follows one that returned its cookie a moment ago.
#[inline(always)]
pub fn follows(connection: u64, segment: &Segment, now: Now) -> bool {
    set(connection).is_some_and(|set| returned_cookie::follows(set, connection, segment.acknowledgement, now.second()))
}

/// Returns whether a segment has the acknowledgement number of one that returned its cookie.
#[inline(always)]
pub fn acknowledges(connection: u64, segment: &Segment) -> bool {
    set(connection).is_some_and(|set| returned_cookie::acknowledges(set, connection, segment.acknowledgement))
}

/// Marks the cookie of a completed handshake as spent: it must not complete another one.
#[inline(always)]
pub fn spend(source: Source, handshake: &Handshake) {
    let client = hash::client(source.hash, handshake.remote_port);
    let connection = hash::connection(client, handshake.local_address, handshake.local_port);
    if let Some(set) = set(connection) {
        returned_cookie::spend(set, connection);
    }
}

#[inline(always)]
fn set<'a>(connection: u64) -> Option<&'a mut Set> {
    let set = RETURNED_COOKIES.get_ptr_mut(returned_cookie::set(connection))?;
    // SAFETY: elements of an array live as long as the program, and one word is written at once.
    Some(unsafe { &mut *set })
}

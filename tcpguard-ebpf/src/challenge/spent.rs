//! The cookies that came back.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use tcpguard_common::{
    challenge::spent::{self, Returned, SETS, Set},
    hash,
    packet::Segment,
};

use crate::{arrival::Source, socket::Handshake, time::Now};

#[btf_map]
static RETURNED_COOKIES: Array<Set, { SETS as usize }> = Array::new();

/// Notes a valid cookie that came back.
#[inline(always)]
pub fn note(connection: u64, segment: &Segment, now: Now) -> Returned {
    set(connection).map_or(Returned::Again, |set| spent::note(set, connection, segment.acknowledgement, now.second()))
}

/// Whether a segment follows one that brought its cookie back a moment ago.
#[inline(always)]
pub fn follows(connection: u64, segment: &Segment, now: Now) -> bool {
    set(connection).is_some_and(|set| spent::follows(set, connection, segment.acknowledgement, now.second()))
}

/// Whether a segment acknowledges what one did that brought its cookie back.
#[inline(always)]
pub fn acknowledges(connection: u64, segment: &Segment) -> bool {
    set(connection).is_some_and(|set| spent::acknowledges(set, connection, segment.acknowledgement))
}

/// A handshake is complete: by its cookie no other one may be.
#[inline(always)]
pub fn spend(source: Source, handshake: &Handshake) {
    let connection = hash::connection(source.hash, handshake.remote_port, handshake.local_port);
    if let Some(set) = set(connection) {
        spent::spend(set, connection);
    }
}

#[inline(always)]
fn set<'a>(connection: u64) -> Option<&'a mut Set> {
    let set = RETURNED_COOKIES.get_ptr_mut(spent::set(connection))?;
    // SAFETY: elements of an array live as long as the program, and a word is written at once.
    Some(unsafe { &mut *set })
}

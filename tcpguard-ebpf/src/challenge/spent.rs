//! The cookies that came back.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use tcpguard_common::{
    challenge::spent::{self, SETS, Set},
    hash,
    packet::Segment,
};

use crate::{arrival::Source, socket::Handshake, time::Now};

#[btf_map]
static RETURNED_COOKIES: Array<Set, { SETS as usize }> = Array::new();

/// Notes a valid cookie that came back; false where a connection was made by it already.
#[inline(always)]
pub fn note(segment: &Segment, acknowledgement: u32, now: Now) -> bool {
    let source = Source::new(segment.source);
    let connection = hash::connection(source.hash, segment.source_port, segment.destination_port);
    set(connection).is_none_or(|set| spent::note(set, connection, acknowledgement, now.second()))
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

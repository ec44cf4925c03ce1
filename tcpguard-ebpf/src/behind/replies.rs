//! The SYN-ACKs of servers behind this host, and the segments that acknowledge them.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use tcpguard_common::tracking::reply::{self, Noted, SETS, Set};

#[btf_map]
static REPLIES: Array<Set, { SETS as usize }> = Array::new();

/// Remembers a SYN-ACK to a client, an address and a port with this hash; `connection` is that of its connection.
#[inline(always)]
pub fn note(client: u64, connection: u64, sequence: u32, now: u32) -> Noted {
    set(client).map_or(Noted::Again, |set| reply::note(set, client, connection, sequence, now))
}

/// Returns whether a client acknowledges a SYN-ACK with this sequence number for the first time.
#[inline(always)]
pub fn acknowledge(client: u64, connection: u64, sequence: u32, now: u32) -> bool {
    set(client).is_some_and(|set| reply::acknowledge(set, client, connection, sequence, now))
}

/// Ends the handshakes of a client's connection; returns whether there were any.
#[inline(always)]
pub fn end(client: u64, connection: u64, now: u32) -> bool {
    set(client).is_some_and(|set| reply::end(set, client, connection, now))
}

/// Returns whether a SYN-ACK of a client's connection waits to be acknowledged.
#[inline(always)]
pub fn is_open(client: u64, connection: u64, now: u32) -> bool {
    set(client).is_some_and(|set| reply::is_open(set, client, connection, now))
}

/// Returns whether any SYN-ACK to a client was seen; true if that cannot be determined.
#[inline(always)]
pub fn is_known(client: u64, now: u32) -> bool {
    set(client).is_none_or(|set| reply::is_known(set, client, now))
}

/// Returns whether a client acknowledged a SYN-ACK.
#[inline(always)]
pub fn was_acknowledged(client: u64, now: u32) -> bool {
    set(client).is_some_and(|set| reply::was_acknowledged(set, client, now))
}

#[inline(always)]
fn set<'a>(client: u64) -> Option<&'a mut Set> {
    let set = REPLIES.get_ptr_mut(reply::set(client))?;
    // SAFETY: elements of an array live as long as the program, and one word is written at once: two CPUs at the same cell
    // leave one reply or the other.
    Some(unsafe { &mut *set })
}

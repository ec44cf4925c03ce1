//! The cache of half-open handshakes.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use tcpguard_common::{
    handshake::{self, CELLS, Handshake as Remembered},
    hash,
    packet::Segment,
};

use super::Source;
use crate::socket::Handshake;

#[btf_map]
static HANDSHAKES: Array<u64, { CELLS as usize }> = Array::new();

const EMPTY: u64 = 0;

/// A SYN arrived: false where it is one that was counted before.
#[inline(always)]
pub fn begin(source: Source, segment: &Segment, now: u32) -> bool {
    let connection = hash::connection(source.hash, segment.source_port, segment.destination_port);
    let Some(cell) = cell(connection) else { return true };
    if Remembered::from_word(*cell).is(connection, segment.sequence, now) {
        return false;
    }
    *cell = Remembered::new(connection, segment.sequence, now).word();
    true
}

/// A reset arrived: the period its handshake began in, where it ends one. Its sequence number is then
/// the one after the SYN's (RFC 9293 3.10.7.3), as the SYN-ACK asked for.
#[inline(always)]
pub fn reset(source: Source, segment: &Segment, now: u32) -> Option<u32> {
    let connection = hash::connection(source.hash, segment.source_port, segment.destination_port);
    let cell = cell(connection)?;
    let remembered = Remembered::from_word(*cell);
    if !remembered.is(connection, segment.sequence.wrapping_sub(1), now) {
        return None;
    }
    *cell = EMPTY;
    Some(remembered.period(now))
}

/// A handshake was completed: the period it began in, where it is remembered.
#[inline(always)]
pub fn complete(source: Source, handshake: &Handshake, now: u32) -> Option<u32> {
    let connection = hash::connection(source.hash, handshake.remote_port, handshake.local_port);
    let cell = cell(connection)?;
    let remembered = Remembered::from_word(*cell);
    if !remembered.is_of(connection, now) {
        return None;
    }
    *cell = EMPTY;
    Some(remembered.period(now))
}

#[inline(always)]
fn cell<'a>(connection: u64) -> Option<&'a mut u64> {
    let cell = HANDSHAKES.get_ptr_mut(handshake::cell(connection))?;
    // SAFETY: elements of an array live as long as the program, and a word is written at once:
    // two CPUs at the same cell leave one handshake or the other.
    Some(unsafe { &mut *cell })
}

//! What is observed of handshakes that complete behind this host: SYN-ACKs and resets of the servers, and the segments by
//! which clients acknowledge them.
//!
//! A handshake counts for its place from the SYN on, and for its source from the SYN-ACK on: only then does the server hold
//! it, and only then can this host see how it ends. Where SYN-ACKs take another way, no source has any half-open handshake.

use tcpguard_common::{
    abi::{
        counters::Counter,
        event::{Event, is_busy_mark, kind},
        place::is_protected,
    },
    atomic,
    challenge::safe_reset::is_answer,
    hash,
    packet::Segment,
    tracking::{
        handshake::{Begun, UNKNOWN_TTL, check},
        reply::Noted,
    },
};

use super::{
    counters, handshakes, ports, prefixes, shapes,
    sources::{self, Need},
};
use crate::{
    behind::{places, replies},
    events,
    kernel::sent::{Sent, SentSegment},
    lease, local,
    source::{Source, connection_of},
    time::Now,
};

/// Counts a SYN-ACK or a reset that a server behind this host sent to a client.
#[inline(always)]
pub fn sent(segment: &SentSegment, now: Now) {
    let place = places::of(segment.server, segment.server_port);
    let is_ours = !is_protected(place);
    if is_ours && (!local::has_address(segment.server) || local::is_listening(segment.server_port)) {
        return;
    }
    // What came from the clients' side and is sent back there is no server's answer: anybody can send it. The address of a
    // redirected port is this host's own, which no router sends on.
    if segment.is_sent_back || !is_ours && segment.is_from_clients {
        return;
    }
    let source = Source::new(segment.client);
    let client = hash::client(source.hash, segment.client_port);
    let connection = hash::connection(client, segment.server, segment.server_port);
    let check = check(connection, segment.acknowledgement.wrapping_sub(1));
    let period = now.window_period();
    match segment.kind {
        // At traffic control, what this host's own programs answer passes here as well.
        Sent::SynAck if is_answer(segment.sequence, segment.acknowledgement) => {}
        // Another number than before: a server that answers one SYN several times holds it once.
        Sent::SynAck if is_repeated(client, connection, segment.sequence, period) => {
            if let Some(entry) = sources::find(source) {
                atomic::add_u32(&mut entry.retried, 1);
            }
            ports::count_retried(place);
            counters::add(Counter::Retried);
        }
        Sent::SynAck => replied(place, source, handshakes::is_begun(client, check, period), now),
        Sent::Reset => {
            if handshakes::refuse(client, check, period) {
                ports::count_refused(place);
                counters::add_end(Counter::HandshakesReset);
            }
        }
    }
}

/// Remembers a SYN-ACK; returns whether its client has been sent one before that it has not acknowledged.
#[inline(always)]
fn is_repeated(client: u64, connection: u64, sequence: u32, period: u32) -> bool {
    let is_open = replies::is_open(client, connection, period);
    matches!(replies::note(client, connection, sequence, period), Noted::Again) || is_open
}

/// Counts a SYN-ACK that is no retransmit; `is_begun` if its SYN is remembered.
#[inline(always)]
fn replied(place: u32, source: Source, is_begun: bool, now: Now) {
    ports::count_replied(place);
    prefixes::count_syn(source, now);
    if !is_begun {
        return;
    }
    let Some(entry) = sources::find(source) else { return };
    let count = entry.half_open.open(now.window_period());
    if is_busy_mark(count) {
        events::report(Event { kind: kind::SOURCE_BUSY, reason: 0, source: source.address, half_open: count.into() });
    }
}

/// Counts a handshake that completed behind this host. It proves its source if the network is one that this host protects;
/// whoever owns a redirected port may be a stranger, who could acknowledge his own SYN-ACKs in the name of others.
/// Returns what was observed when it began.
#[inline(always)]
pub fn completed(source: Source, segment: &Segment, client: u64, now: Now) -> Option<Begun> {
    let place = places::of(segment.destination, segment.destination_port);
    if !places::is_behind(place) {
        // Its SYN was not judged: it is not known yet that the port is redirected.
        return None;
    }
    let begun = handshakes::complete_of(client, now.window_period());
    let need = if is_protected(place) { Need::Proven } else { Need::Seen };
    if sources::insert(source, need) {
        counters::add(Counter::CompletedUntracked);
    }
    let mut proves = false;
    if let Some(entry) = sources::find(source) {
        if is_protected(place) {
            proves = now.jiffies >= entry.proven_until;
            entry.proven_until = now.jiffies + lease::proven_ticks();
        }
        // Nor does it tell the path of its source.
        let unknown = |begun| Begun { time_to_live: UNKNOWN_TTL, ..begun };
        super::note_completed(entry, if is_protected(place) { begun } else { begun.map(unknown) }, now);
        if begun.is_some() {
            entry.half_open.close_newest(now.window_period());
        }
    }
    shapes::count_completed(begun, proves);
    prefixes::count_end(source, now);
    ports::count_completed_behind(place, proves);
    counters::add_end(Counter::Completed);
    begun
}

/// Ends a handshake whose client acknowledges a SYN-ACK that was not sent through this host. Anybody can send such a segment:
/// it is no evidence of anything, and the handshake neither proves its source nor counts as completed.
#[inline(always)]
pub fn one_way(source: Source, segment: &Segment, client: u64, place: u32, now: Now) {
    let check = check(connection_of(client, segment), segment.sequence.wrapping_sub(1));
    if handshakes::refuse(client, check, now.window_period()) {
        // The limit of its rate is for sources whose handshakes do not end.
        if let Some(entry) = sources::find(source) {
            super::give_back(entry, now);
        }
        ports::count_one_way(place);
        counters::add_end(Counter::HandshakesReset);
    }
}

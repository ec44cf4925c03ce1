//! The segments by which clients acknowledge the SYN-ACKs of servers behind this host.

use tcpguard_common::{
    abi::{lease::flag, place::is_protected, port::port_flag},
    packet::{Flags, Segment},
};

use super::{places, replies};
use crate::{
    accounting,
    challenge::listeners,
    frame::Frame,
    hook::{Context, RawContext},
    lease, signatures,
    source::{Source, client_of, connection_of},
    time::Now,
};

/// Counts the handshake that a segment with an acknowledgement completes, if it does. It is a global function, which the
/// verifier checks on its own.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn acknowledged(context: *mut RawContext, place: u64) -> u32 {
    let context = Context::new(context);
    let Some(segment) = Segment::at(&Frame::of(&context), place) else { return 0 };
    let now = Now::read();
    let source = Source::new(segment.source);
    let client = client_of(source, &segment);
    let number = segment.acknowledgement.wrapping_sub(1);
    if replies::acknowledge(client, connection_of(client, &segment), number, now.window_period()) {
        let begun = accounting::completed_behind(source, &segment, client, now);
        signatures::note_completed(source, client, begun, now);
    } else if lease::flags() & flag::ONE_WAY != 0 && segment.flags.0 == Flags::ACK {
        acknowledged_one_way(source, &segment, client, now);
    }
    0
}

/// Counts a handshake whose SYN-ACK took another way, at places where they do.
#[inline(always)]
fn acknowledged_one_way(source: Source, segment: &Segment, client: u64, now: Now) {
    if replies::is_known(client, now.window_period()) {
        return;
    }
    let place = places::of(segment.destination, segment.destination_port);
    if is_protected(place) && listeners::challenge_of(place).is_some_and(|terms| terms.has(port_flag::ONE_WAY)) {
        accounting::one_way(source, segment, client, place, now);
    }
}

//! Segments that are neither SYNs nor of a connection, while their port is challenged: what floods of ACKs,
//! FINs and resets are made of. Whatever belongs to a connection passes untouched.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use tcpguard_common::{
    challenge::port_flag,
    control::flag,
    counters::Counter,
    drops::DropReason,
    packet::{Flags, Segment, SegmentKind},
};

use crate::{
    accounts::counts,
    challenge, connections,
    control::{self, Leave},
    frame::Frame,
    outcome::Outcome,
    time::Now,
};

/// The outcome of a segment that belongs to nothing; `None` where it passes.
#[inline(always)]
pub fn stray(context: &XdpContext, segment: &Segment, kind: SegmentKind) -> Option<Outcome> {
    if control::flags() & flag::GUARD == 0 {
        return None;
    }
    let reason = match kind {
        SegmentKind::Rst => DropReason::StrayRst,
        _ if segment.flags.0 & Flags::FIN != 0 => DropReason::StrayFin,
        _ => DropReason::StrayAck,
    };
    let now = Now::read();
    let leave = Leave::read(now);
    let terms = challenge::terms_of(segment.destination_port)?;
    if !leave.has(flag::GUARD) || !terms.has(port_flag::GUARD) {
        return None;
    }
    let is_reset = u32::from(matches!(kind, SegmentKind::Rst));
    match judge_stray(context.ctx, segment.place(), is_reset, now.jiffies) {
        PASSES => None,
        SPENT => leave.drop(DropReason::SpentCookie),
        _ => leave.drop(reason),
    }
}

const PASSES: u32 = 0;
const STRAY: u32 = 1;
const SPENT: u32 = 2;

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn judge_stray(context: *mut xdp_md, place: u64, is_reset: u32, jiffies: u64) -> u32 {
    let context = XdpContext::new(context);
    let frame = Frame::of(&context);
    let Some(segment) = Segment::at(&frame, place) else { return PASSES };
    let Some(terms) = challenge::terms_of(segment.destination_port) else { return PASSES };
    if !challenge::has_listener(terms, &segment) || connections::has_connection(&context, &segment) != Some(false) {
        return PASSES;
    }
    let frame = Frame::of(&context);
    if is_reset != 0 {
        return STRAY;
    }
    let Some(acknowledgement) = challenge::returned_cookie(&frame, &segment) else { return STRAY };
    counts::add(Counter::CookiesReturned);
    if challenge::note_returned(&segment, acknowledgement, Now::at(jiffies)) { PASSES } else { SPENT }
}

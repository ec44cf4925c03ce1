//! Segments that are neither SYNs nor of a connection, while their port is challenged: what floods of ACKs,
//! FINs and resets are made of. Whatever belongs to a connection passes untouched.

use aya_ebpf::{EbpfContext as _, btf_maps::PerCpuArray, macros::btf_map};
use tcpguard_common::{
    challenge::{
        passing::{self, Cells},
        port_flag,
        spent::Returned,
    },
    control::flag,
    counters::Counter,
    drops::DropReason,
    packet::{Flags, Segment, SegmentKind},
};

use crate::{
    accounts::{self, counts},
    arrival::{Source, connection_of},
    challenge, connections,
    control::{self, Leave},
    frame::Frame,
    hook::{Context, RawContext},
    outcome::Outcome,
    time::Now,
};

/// The outcome of a segment that belongs to nothing; `None` where it passes.
#[inline(always)]
pub fn stray(context: &Context, segment: &Segment, kind: SegmentKind) -> Option<Outcome> {
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
    let (watched, guarded) = if segment.source.is_ipv4() {
        (port_flag::WATCH_IPV4, port_flag::GUARD_IPV4)
    } else {
        (port_flag::WATCH_IPV6, port_flag::GUARD_IPV6)
    };
    if !leave.has(flag::GUARD) || !terms.has(watched) {
        return None;
    }
    let connection = connection_of(Source::new(segment.source), segment);
    // What a connection was made by is looked at again each time: it may come once more when that is gone.
    if has_passed(connection, now) && !challenge::acknowledges_cookie(connection, segment) {
        return None;
    }
    let is_reset = u32::from(matches!(kind, SegmentKind::Rst));
    match judge_stray(context.as_ptr().cast(), segment.place(), is_reset, now.jiffies, connection) {
        PASSES => None,
        CONNECTED => {
            remember(connection, now);
            None
        }
        _ if !terms.has(guarded) => None,
        SPENT => leave.drop(DropReason::SpentCookie),
        _ => leave.drop(reason),
    }
}

const PASSES: u32 = 0;
const STRAY: u32 = 1;
const SPENT: u32 = 2;
const CONNECTED: u32 = 3;

/// Connections that were found a moment ago.
#[btf_map]
static PASSING: PerCpuArray<Cells, 1> = PerCpuArray::new();

#[inline(always)]
fn has_passed(connection: u64, now: Now) -> bool {
    PASSING.get(0).is_some_and(|cells| passing::holds(cells[passing::position(connection)], connection, now.second()))
}

#[inline(always)]
fn remember(connection: u64, now: Now) {
    if let Some(cells) = PASSING.get_ptr_mut(0) {
        // SAFETY: the element belongs to this CPU, and a word is written at once.
        unsafe { (*cells)[passing::position(connection)] = passing::cell(connection, now.second()) };
    }
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn judge_stray(context: *mut RawContext, place: u64, is_reset: u32, jiffies: u64, connection: u64) -> u32 {
    let context = Context::new(context);
    let frame = Frame::of(&context);
    let Some(segment) = Segment::at(&frame, place) else { return PASSES };
    let Some(terms) = challenge::terms_of(segment.destination_port) else { return PASSES };
    if !challenge::has_listener(terms, &segment) {
        return PASSES;
    }
    match connections::has_connection(&context, &segment) {
        Some(true) => return CONNECTED,
        Some(false) => {}
        None => return PASSES,
    }
    if is_reset != 0 {
        return STRAY;
    }
    let Some(is_cookie) = challenge::is_returned_cookie(&frame, &segment) else { return PASSES };
    let now = Now::at(jiffies);
    if !is_cookie {
        return if challenge::follows_cookie(connection, &segment, now) { PASSES } else { STRAY };
    }
    match challenge::note_returned(connection, &segment, now) {
        Returned::First => {
            counts::add(Counter::CookiesReturned);
            accounts::cookie_returned(segment.destination_port, segment.source.is_ipv4());
            PASSES
        }
        Returned::Again => PASSES,
        Returned::Spent => SPENT,
    }
}

//! The stray filter: drops segments that belong to no connection and return no valid cookie, which floods of ACKs, FINs,
//! resets and SYN-ACKs consist of: those to challenged ports, and while strays flood the host, all. Segments of connections
//! pass untouched.

use aya_ebpf::{EbpfContext as _, btf_maps::PerCpuArray, macros::btf_map};
use tcpguard_common::{
    abi::{
        counters::{Counter, DropReason},
        lease::flag,
        port::port_flag,
    },
    challenge::{
        recent_connection::{self, Cells},
        returned_cookie::Returned,
    },
    packet::{Flags, Segment, SegmentKind, integrity::RIGHT},
};

use crate::{
    accounting,
    challenge::{cookie, listeners, returned_cookie},
    frame::Frame,
    hook::{Context, RawContext},
    kernel::connections,
    lease::{self, Lease},
    source::{Source, client_of, connection_of},
    time::Now,
    verdict::Verdict,
};

/// Drops a stray segment, or counts it. In calm, this reads one word.
#[inline(always)]
pub fn filter(context: &Context, segment: &Segment, kind: SegmentKind) -> Result<(), Verdict> {
    if lease::flags() & flag::ANY_STRAYS == 0 {
        return Ok(());
    }
    let now = Now::read();
    let lease = Lease::read(now);
    let Some(scope) = Scope::of(segment, lease) else { return Ok(()) };
    let source = Source::new(segment.source);
    let connection = connection_of(client_of(source, segment), segment);
    // A segment that returns a cookie is classified each time: it may arrive once more when its connection is gone.
    if was_found(connection, now) && !returned_cookie::acknowledges(connection, segment) {
        return Ok(());
    }
    let is_ack = if matches!(kind, SegmentKind::Ack) { IS_ACK } else { 0 };
    let found = classify(context.as_ptr().cast(), segment.place(), is_ack | scope.0, now.jiffies, connection);
    match found {
        PASSES => return Ok(()),
        COOKIE => {
            // With a wrong checksum it makes no connection, and is no evidence that cookies come back for nothing.
            if accounting::segment_integrity(context.as_ptr().cast(), segment.place()) == RIGHT {
                accounting::cookie_returned(source, segment);
            }
            return Ok(());
        }
        CONNECTED => {
            remember(connection, now);
            return Ok(());
        }
        _ => accounting::counters::add(Counter::Strays),
    }
    // What is sent to guess a cookie gets no second try.
    let may_be_answered = found == STRAY && scope.0 & (HOST | PORT) == HOST && may_be_answered(connection, now);
    if scope.0 & DROPS == 0 || may_be_answered {
        return Ok(());
    }
    lease.drop(match kind {
        _ if found == SPENT => DropReason::SpentCookie,
        SegmentKind::Rst => DropReason::StrayRst,
        SegmentKind::SynAck => DropReason::StraySynAck,
        _ if segment.flags.0 & Flags::FIN != 0 => DropReason::StrayFin,
        _ => DropReason::StrayAck,
    })
}

/// Why a segment is looked up, as a combination of the constants below.
#[derive(Clone, Copy)]
struct Scope(u32);

/// Its port is challenged, and cookies that return are noted.
const PORT: u32 = 1;
/// Every segment for the host is looked up.
const HOST: u32 = 1 << 1;
/// Strays are dropped.
const DROPS: u32 = 1 << 2;
/// The segment may return a cookie. It is passed to [`classify`] together with the scope.
const IS_ACK: u32 = 1 << 3;

impl Scope {
    /// Returns why a segment is looked up, if it is.
    #[inline(always)]
    fn of(segment: &Segment, lease: Lease) -> Option<Self> {
        let port = listeners::challenge_of(segment.destination_port.into())?;
        let (watched, filtered, everywhere) = if segment.source.is_ipv4() {
            (port_flag::WATCH_IPV4, port_flag::STRAY_FILTER_IPV4, flag::STRAYS_IPV4)
        } else {
            (port_flag::WATCH_IPV6, port_flag::STRAY_FILTER_IPV6, flag::STRAYS_IPV6)
        };
        let mut scope = 0;
        if lease.has(flag::STRAY_FILTER) && port.has(watched) {
            scope |= PORT | if port.has(filtered) { DROPS } else { 0 };
        }
        if lease.has(everywhere) {
            scope |= HOST | if lease.has(flag::DROP_STRAYS) { DROPS } else { 0 };
        }
        (scope != 0).then_some(Self(scope))
    }
}

/// Connections that were found recently, so that the kernel is not asked for each of their segments.
#[btf_map]
static PASSING: PerCpuArray<Cells, 1> = PerCpuArray::new();

#[inline(always)]
fn was_found(connection: u64, now: Now) -> bool {
    let position = recent_connection::position(connection);
    PASSING.get(0).is_some_and(|cells| recent_connection::holds(cells[position], connection, now.second()))
}

#[inline(always)]
fn remember(connection: u64, now: Now) {
    if let Some(cells) = PASSING.get_ptr_mut(0) {
        let position = recent_connection::position(connection);
        // SAFETY: the element belongs to this CPU, and one word is written at once.
        unsafe { (*cells)[position] = recent_connection::cell(connection, now.second()) };
    }
}

/// Strays that were dropped recently.
#[btf_map]
static DROPPED: PerCpuArray<Cells, 1> = PerCpuArray::new();

/// The second, in the upper half, and the number of strays that passed in it.
#[btf_map]
static ANSWERED: PerCpuArray<u64, 1> = PerCpuArray::new();

/// How many strays one CPU lets pass in a second.
const ANSWERS: u64 = 500;

/// Returns whether a stray passes, so that the kernel answers it with a reset: it was sent again, as by a peer whose
/// connection this host has forgotten, and not too many do that.
#[inline(always)]
fn may_be_answered(connection: u64, now: Now) -> bool {
    let second = now.second();
    let Some(cells) = DROPPED.get_ptr_mut(0) else { return false };
    let position = recent_connection::position(connection);
    // SAFETY: the element belongs to this CPU, and one word is read and written at once.
    let cell = unsafe { &mut (*cells)[position] };
    if !recent_connection::holds(*cell, connection, second) {
        *cell = recent_connection::cell(connection, second);
        return false;
    }
    let Some(answered) = ANSWERED.get_ptr_mut(0) else { return false };
    // SAFETY: as above.
    let answered = unsafe { &mut *answered };
    if *answered >> 32 != u64::from(second) {
        *answered = u64::from(second) << 32;
    }
    *answered += 1;
    *answered & 0xffff_ffff <= ANSWERS
}

const PASSES: u32 = 0;
const STRAY: u32 = 1;
const SPENT: u32 = 2;
const CONNECTED: u32 = 3;
const COOKIE: u32 = 4;

/// Classifies a segment as one of the constants above. It is a global function, which the verifier checks on its own.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn classify(context: *mut RawContext, place: u64, scope: u32, jiffies: u64, connection: u64) -> u32 {
    let context = Context::new(context);
    let frame = Frame::of(&context);
    let Some(segment) = Segment::at(&frame, place) else { return PASSES };
    let Some(port) = listeners::challenge_of(segment.destination_port.into()) else { return PASSES };
    let is_of_port = scope & PORT != 0 && listeners::has_listener(port, &segment);
    if !is_of_port && (scope & HOST == 0 || !listeners::is_for_host(&segment)) {
        return PASSES;
    }
    match connections::has_connection(&context, &segment) {
        Some(true) => return CONNECTED,
        // The port does not even have a listener, or it is that of a transparent proxy.
        None if scope & HOST == 0 => return PASSES,
        Some(false) | None => {}
    }
    if scope & IS_ACK == 0 {
        return STRAY;
    }
    let now = Now::at(jiffies);
    match cookie::is_returned(&frame, &segment) {
        None => PASSES,
        Some(false) if returned_cookie::follows(connection, &segment, now) => PASSES,
        Some(false) => STRAY,
        // The kernel's own: of a port that is not challenged.
        Some(true) if !is_of_port => PASSES,
        Some(true) => returned(connection, &segment, now),
    }
}

/// Classifies a segment that returns a valid cookie.
#[inline(always)]
fn returned(connection: u64, segment: &Segment, now: Now) -> u32 {
    match returned_cookie::note(connection, segment, now) {
        Returned::First => {
            accounting::counters::add(Counter::CookiesReturned);
            COOKIE
        }
        Returned::Again => PASSES,
        Returned::Spent => SPENT,
    }
}

//! Accounting: what each SYN, reset, completion and retransmitted SYN-ACK changes in the maps. Nothing is decided here.
//!
//! A SYN costs the same whatever the number of sources: it is counted in the cell of its prefix, among the distinct
//! sources and by port. SYNs of sources without an entry in the source table are counted in the sketch, which decides whether
//! the source gets one (see [`tcpguard_common::tracking::admission`]).

mod behind;
pub mod counters;
mod distinct;
mod handshakes;
mod headers;
mod interfaces;
mod ports;
mod prefixes;
mod shapes;
mod sketch;
pub mod sources;

use aya_ebpf::EbpfContext as _;
use aya_log_ebpf::debug;
use tcpguard_common::{
    abi::{
        counters::Counter,
        event::{Event, is_busy_mark, kind},
        lease::flag,
    },
    address::Address,
    atomic, hash,
    packet::{Segment, integrity},
    tracking::{
        handshake::{Begun, UNKNOWN_TTL},
        source::SourceEntry,
    },
};

use crate::{
    behind::{
        places::{self, Place},
        replies,
    },
    events,
    frame::Frame,
    hook::{Context, RawContext},
    kernel::handshake::Handshake,
    lease::{self, Lease},
    local,
    source::{Source, client_of, connection_of},
    time::Now,
};
pub use behind::{completed as completed_behind, one_way, sent};
pub use distinct::observe as observe_distinct;
pub use headers::observe as observe_headers;
pub use interfaces::{is_from_clients, is_guarded};
pub use ports::{came_back, count_not_begun as not_begun, count_repeated as retransmitted, is_portion_full};
use sketch::Rank;
use sources::Need;

/// Counts a SYN of a source without an entry; returns the entry if the source gets one.
#[inline(always)]
pub fn admit<'a>(
    context: &Context,
    source: Source,
    segment: &Segment,
    now: Now,
    lease: Lease,
    is_challenged: bool,
) -> Option<&'a mut SourceEntry> {
    let rank = sketch::count(source, now, is_challenged)?;
    let [high, low] = source.address.words();
    add(context.as_ptr().cast(), high, low, (rank == Rank::StandsOut).into(), segment.destination_port.into());
    let entry = sources::find(source)?;
    entry.tokens = entry.tokens.saturating_sub(lease.rate().map_or(0, |rate| rate.per_syn));
    sources::count(&mut entry.syn);
    Some(entry)
}

/// Gives the source whose address consists of these two words an entry, and logs it. It is not inlined: few SYNs get here, and
/// the others would pay for its stack.
#[inline(never)]
fn add(context: *mut RawContext, high: u64, low: u64, stands_out: u32, port: u32) {
    let source = Source::new(Address::from_words([high, low]));
    if sources::insert(source, if stands_out != 0 { Need::StandsOut } else { Need::Seen }) {
        let context = Context::new(context);
        // The target is documented (docs/commands.md).
        debug!(&context, target: "tcpguard::accounts", "new source {:i}, SYN to port {}", source.address.octets(), port);
    }
}

/// Counts a valid cookie that was returned.
#[inline(always)]
pub fn cookie_returned(source: Source, segment: &Segment) {
    ports::count_returned(segment.destination_port.into(), segment.source.is_ipv4(), prefixes::network_hash(source));
}

/// Counts a SYN whose source has no entry and gets none.
#[inline(always)]
pub fn untracked(source: Source, place: Place, now: Now, is_challenged: bool) {
    ports::count_syn(place.number, is_challenged);
    if !place.is_behind {
        prefixes::count_syn(source, now);
    }
}

/// Counts a SYN of a source with an entry that did not reach the kernel: it was dropped so that it is retransmitted, or
/// answered so that its client resets it.
#[inline(always)]
pub fn held_back(entry: &mut SourceEntry) {
    atomic::add(&mut entry.dropped, 1);
}

/// Remembers the handshake that a SYN begins; returns false for a retransmit of a SYN that is remembered already.
#[inline(always)]
pub fn is_first_syn(source: Source, segment: &Segment, now: Now) -> bool {
    handshakes::begin(source, segment, now.window_period())
}

/// Counts a SYN to a port without a listener. Nothing of it counts against its source; only the port is noted, which
/// tells a scan.
#[inline(always)]
pub fn to_closed_port(context: &Context, source: Source, segment: &Segment, now: Now, lease: Lease) {
    not_begun(segment.destination_port.into(), false);
    let entry = match sources::find(source) {
        Some(entry) => entry,
        // The host's own addresses get no entry: they are forged.
        None if local::has_address(source.address) => return,
        None => match admit(context, source, segment, now, lease, false) {
            Some(entry) => entry,
            None => return,
        },
    };
    entry.ports.add(segment.destination_port, now.is_new_period(entry.last_seen));
    if let Some(rate) = lease.rate() {
        // What the time since then brought must not be lost.
        rate.fill(&mut entry.tokens, now.jiffies.saturating_sub(entry.last_seen));
    }
    entry.last_seen = now.jiffies;
}

/// Counts a handshake that begins. One that completes behind this host counts for its source when its server answers.
#[inline(always)]
pub fn handshake_begun(
    entry: &mut SourceEntry,
    source: Source,
    port: u16,
    place: Place,
    now: Now,
    is_challenged: bool,
) {
    let period = now.window_period();
    ports::count_syn(place.number, is_challenged);
    entry.ports.add(port, entry.half_open.is_new_period(period));
    if place.is_behind {
        return;
    }
    prefixes::count_syn(source, now);
    let count = entry.half_open.open(period);
    if is_busy_mark(count) {
        events::report(Event { kind: kind::SOURCE_BUSY, reason: 0, source: source.address, half_open: count.into() });
    }
}

/// Blocks a source until `until`, in jiffies; 0 lifts a block. Returns false if the source table has no room for it.
#[inline(always)]
pub fn block(source: Source, until: u64) -> bool {
    let entry = sources::find(source).or_else(|| {
        if until == 0 {
            return None;
        }
        sources::insert(source, if until > Now::read().jiffies { Need::Blocked { until } } else { Need::Seen });
        sources::find(source)
    });
    if let Some(entry) = entry {
        entry.blocked_until = until;
        return true;
    }
    until == 0
}

/// Counts a reset for its source. The source's half-open count is lowered only if the reset ends a handshake that is
/// half open.
#[inline(always)]
pub fn reset(context: &Context, segment: &Segment) {
    let source = Source::new(segment.source);
    let Some(entry) = sources::find(source) else { return };
    atomic::add_u32(&mut entry.resets, 1);
    if segment_integrity(context.as_ptr().cast(), segment.place()) == integrity::WRONG {
        // The kernel discards it.
        return;
    }
    let now = Now::read();
    if let Some(begun) = handshakes::reset(source, segment, now.window_period()) {
        let place = places::of(segment.destination, segment.destination_port);
        // Behind this host, it counts for its source only once the server has answered.
        let client = client_of(source, segment);
        if !places::is_behind(place) || replies::end(client, connection_of(client, segment), now.window_period()) {
            entry.half_open.close(begun.period);
            prefixes::count_end(source, now);
            ports::count_reset(place);
        } else {
            ports::count_refused(place);
        }
        counters::add_end(Counter::HandshakesReset);
    }
}

/// Returns one of the constants of [`integrity`]. It is a global function, which the verifier checks on its own.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn segment_integrity(context: *mut RawContext, place: u64) -> u32 {
    integrity::integrity(&Frame::of(&Context::new(context)), place)
}

/// Counts a handshake that the kernel completed in any namespace of this host. Returns whether it was counted, and what was
/// observed when it began.
#[inline(always)]
pub fn completed(source: Source, handshake: &Handshake, now: Now) -> (bool, Option<Begun>) {
    let begun = handshakes::complete(source, handshake, now.window_period());
    let is_counted = if handshake.is_in_our_namespace && begun.is_none() && was_seen_to_complete(source, handshake, now)
    {
        prove(source, now);
        true
    } else if handshake.is_in_our_namespace {
        completed_here(source, handshake, begun, now)
    } else {
        begun.is_some_and(|begun| completed_elsewhere(source, handshake, begun, now))
    };
    (is_counted, begun)
}

/// Returns whether a handshake has been counted already, because its port is redirected to another one of this host and its
/// segments were observed.
#[inline(always)]
fn was_seen_to_complete(source: Source, handshake: &Handshake, now: Now) -> bool {
    lease::flags() & flag::BEHIND != 0
        && replies::was_acknowledged(hash::client(source.hash, handshake.remote_port), now.window_period())
}

/// Notes that a source has completed a handshake that is counted already.
#[inline(always)]
fn prove(source: Source, now: Now) {
    if let Some(entry) = sources::find(source) {
        entry.proven_until = now.jiffies + lease::proven_ticks();
    }
}

/// Counts a handshake that completed in another namespace (a container) and whose SYN was received here. It does not prove
/// the source: that namespace may belong to somebody else.
#[inline(always)]
fn completed_elsewhere(source: Source, handshake: &Handshake, begun: Begun, now: Now) -> bool {
    let Some(entry) = sources::find(source) else { return false };
    note_end(entry, Some(begun), now);
    count_completed(source, handshake, Some(begun), false, now);
    true
}

/// Counts a handshake that completed in this namespace. It counts if a guarded interface received it, or if SYNs of its
/// source were seen (it then came through a bridge).
#[inline(always)]
fn completed_here(source: Source, handshake: &Handshake, begun: Option<Begun>, now: Now) -> bool {
    let mut entry = sources::find(source);
    if entry.is_none() {
        if !interfaces::contains(handshake.interface) {
            return false;
        }
        // Its SYN was not counted because of a flood of other sources. A completed handshake earns an entry.
        sources::insert(source, Need::Proven);
        entry = sources::find(source);
        if let Some(entry) = &mut entry {
            sources::count(&mut entry.syn);
            counters::add(Counter::CompletedUntracked);
        }
    }
    let Some(entry) = entry else {
        // There is no place for it: it counts everywhere else.
        count_completed(source, handshake, begun, false, now);
        return true;
    };
    let proves = now.jiffies >= entry.proven_until;
    entry.proven_until = now.jiffies + lease::proven_ticks();
    note_end(entry, begun, now);
    count_completed(source, handshake, begun, proves, now);
    true
}

/// Counts a completed handshake everywhere but in its source's entry; `proves` if its source was not proven before.
#[inline(always)]
fn count_completed(source: Source, handshake: &Handshake, begun: Option<Begun>, proves: bool, now: Now) {
    shapes::count_completed(begun, proves);
    prefixes::count_end(source, now);
    ports::count_completed(handshake, proves);
    counters::add_end(Counter::Completed);
}

/// Notes in the source's entry that a handshake completed.
#[inline(always)]
fn note_end(entry: &mut SourceEntry, begun: Option<Begun>, now: Now) {
    note_completed(entry, begun, now);
    match begun {
        Some(begun) => entry.half_open.close(begun.period),
        None => entry.half_open.close_newest(now.window_period()),
    }
}

/// Notes in the source's entry that a handshake completed, except that it is no longer half open.
#[inline(always)]
fn note_completed(entry: &mut SourceEntry, begun: Option<Begun>, now: Now) {
    sources::count(&mut entry.completed);
    let period = now.window_period();
    entry.recent.add(period, begun.map(|begun| begun.time_to_live).filter(|time_to_live| *time_to_live != UNKNOWN_TTL));
    give_back(entry, now);
}

/// Returns the token that the SYN of a handshake took, because the handshake has ended.
#[inline(always)]
fn give_back(entry: &mut SourceEntry, now: Now) {
    if let Some(rate) = Lease::read(now).rate() {
        rate.fill(&mut entry.tokens, now.jiffies.saturating_sub(entry.last_seen));
        rate.give_back(&mut entry.tokens);
    }
    entry.last_seen = now.jiffies;
}

/// Returns whether the SYN-ACKs of a handshake are counted already, as they leave this host.
#[inline(always)]
fn was_seen_to_be_answered(source: Source, handshake: &Handshake) -> bool {
    lease::flags() & flag::BEHIND != 0
        && replies::is_known(hash::client(source.hash, handshake.remote_port), Now::read().window_period())
}

/// Counts a SYN-ACK that the kernel retransmitted, in this namespace or for a SYN that was received here.
#[inline(always)]
pub fn retried(handshake: &Handshake) {
    let source = Source::new(handshake.source);
    if was_seen_to_be_answered(source, handshake) {
        return;
    }
    if !handshake.is_in_our_namespace && !handshakes::is_remembered(source, handshake, Now::read().window_period()) {
        return;
    }
    if let Some(entry) = sources::find(source) {
        atomic::add_u32(&mut entry.retried, 1);
    }
    ports::count_retried(handshake.local_port.into());
    counters::add(Counter::Retried);
}

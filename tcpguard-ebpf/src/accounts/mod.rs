//! Accounting: what each SYN, reset, completion and repeated SYN-ACK changes.
//!
//! A SYN costs the same whatever the number of sources: it is counted in its network's
//! cell, among the distinct sources and by port. The source table itself is looked up only for a
//! source that may have an entry, as the filter tells; any other is counted in the sketch, which
//! decides whether it is given one (see [`tcpguard_common::admission`]).

pub mod counts;
mod distinct;
mod guarded;
mod handshakes;
mod known;
mod ports;
mod prefixes;
mod sketch;
mod sources;

use aya_log_ebpf::debug;
use tcpguard_common::{
    atomic,
    counters::Counter,
    event::{Event, is_busy_mark, kind},
    packet::{Segment, SegmentKind},
    rule::Standing,
    source::SourceEntry,
};

use crate::{
    arrival::{Arrival, Source},
    challenge::{self, Challenge},
    control::{self, Leave},
    destination, events,
    hook::Context,
    outcome::Outcome,
    socket::Handshake,
    stages,
    time::Now,
};

/// A valid cookie came back.
#[inline(always)]
pub fn cookie_returned(port: u16, is_ipv4: bool) {
    ports::count_returned(port, is_ipv4);
}

/// See [`ports::is_portion_full`].
#[inline(always)]
pub fn is_portion_full(port: u16, moment: u32) -> bool {
    ports::is_portion_full(port, moment)
}

/// A SYN began no handshake to be judged; `is_restrained` where it was dropped by judgement.
#[inline(always)]
pub fn not_begun(segment: &Segment, is_restrained: bool) {
    ports::count_not_begun(segment.destination_port, is_restrained);
}

/// A SYN arrived that the lists have nothing against. What is remembered of its source may be against it; and
/// it may have to be challenged.
#[inline(always)]
pub fn syn(context: &Context, arrival: &Arrival, standing: Standing) -> Outcome {
    let (source, now) = (arrival.source, arrival.now);
    if known::may_contain(source)
        && let Some(entry) = sources::find(source)
    {
        return syn_of_known(entry, arrival, standing);
    }
    if let Some(outcome) = stages::unknown_source(arrival, standing) {
        return outcome;
    }
    let challenge = if matches!(standing, Standing::Allowed) { Challenge::None } else { Challenge::of(arrival) };
    if let Some(outcome) = challenge.refusal(arrival) {
        return outcome;
    }
    distinct::observe(source, now);
    if !sketch::count(source, now, challenge.is_cookie()) {
        return untracked(arrival, challenge);
    }
    if admit(source, now) {
        sketch::note_admission(challenge.is_cookie());
    }
    debug!(context, "new source {:i}, SYN to port {}", source.address.octets(), arrival.segment.destination_port);
    match sources::find(source) {
        Some(entry) => {
            entry.tokens = entry.tokens.saturating_sub(arrival.leave.rate().map_or(0, |rate| rate.per_syn));
            sources::count(&mut entry.syn);
            begin(entry, arrival, challenge)
        }
        None => untracked(arrival, challenge),
    }
}

/// A SYN of which nothing is remembered. Whom it is for is not asked: this is the path of a flood, and
/// each look-up would cost every SYN of it.
#[inline(always)]
fn untracked(arrival: &Arrival, challenge: Challenge) -> Outcome {
    ports::count_syn(arrival.segment.destination_port, challenge.is_cookie());
    prefixes::count_syn(arrival.source, arrival.now);
    challenge.after(Outcome::SYN_UNTRACKED)
}

/// Gives the source an entry, unless it has one that the filter had lost: false then.
#[inline(always)]
fn admit(source: Source, now: Now) -> bool {
    let is_new = sources::insert(source, now);
    if is_new {
        counts::add(Counter::SourcesAdmitted);
    }
    known::insert(source);
    is_new
}

#[inline(always)]
fn syn_of_known(entry: &mut SourceEntry, arrival: &Arrival, standing: Standing) -> Outcome {
    sources::count(&mut entry.syn);
    if let Some(outcome) = stages::known_source(entry, arrival, standing) {
        return outcome;
    }
    let challenge = stages::challenge_of_known(entry, arrival, standing);
    if let Some(outcome) = challenge.refusal(arrival) {
        atomic::add(&mut entry.dropped, 1);
        return outcome;
    }
    distinct::observe(arrival.source, arrival.now);
    begin(entry, arrival, challenge)
}

/// Begins a handshake, unless the SYN is one that was sent again, or one that is not judged here.
#[inline(always)]
fn begin(entry: &mut SourceEntry, arrival: &Arrival, challenge: Challenge) -> Outcome {
    let outcome = account(entry, arrival, challenge);
    if outcome.is_challenged() {
        sources::count(&mut entry.challenged);
    }
    outcome
}

#[inline(always)]
fn account(entry: &mut SourceEntry, arrival: &Arrival, challenge: Challenge) -> Outcome {
    let (source, segment, now) = (arrival.source, arrival.segment, arrival.now);
    let period = now.window_period();
    if !handshakes::begin(source, segment, period) {
        ports::count_repeated(segment.destination_port, challenge.is_cookie());
        return challenge.after(Outcome::SYN_REPEATED);
    }
    if let Some(outcome) = destination::exemption(arrival) {
        handshakes::forget(source, segment, period);
        not_begun(segment, false);
        return outcome;
    }
    ports::count_syn(segment.destination_port, challenge.is_cookie());
    prefixes::count_syn(source, now);
    entry.ports.add(segment.destination_port, entry.half_open.is_new_period(period));
    let count = entry.half_open.open(period);
    if is_busy_mark(count) {
        events::report(Event { kind: kind::SOURCE_BUSY, reason: 0, source: source.address, half_open: count.into() });
    }
    challenge.after(Outcome::read(SegmentKind::Syn))
}

/// The daemon blocks a source until some time, or lifts a block: 0. It needs an entry for that.
#[inline(always)]
pub fn block(source: Source, until: u64) -> bool {
    let entry = sources::find(source).or_else(|| {
        admit(source, Now::read());
        sources::find(source)
    });
    if let Some(entry) = entry {
        known::insert(source);
        entry.blocked_until = until;
        return true;
    }
    false
}

/// A reset arrived. It is counted for its source; the source's half-open count goes down only where
/// it ends a handshake that is half open.
#[inline(always)]
pub fn reset(segment: &Segment) {
    let source = Source::new(segment.source);
    if !known::may_contain(source) {
        return;
    }
    let Some(entry) = sources::find(source) else { return };
    atomic::add_u32(&mut entry.resets, 1);
    let now = Now::read();
    if let Some(began) = handshakes::reset(source, segment, now.window_period()) {
        entry.half_open.close(began);
        prefixes::count_end(source, now);
        ports::count_reset(segment.destination_port);
        counts::add(Counter::HandshakesReset);
    }
}

/// The kernel completed a handshake. It counts where a guarded interface received it, or where its
/// source is one whose SYNs were seen (its handshake then ended in a container, or behind a bridge).
#[inline(always)]
pub fn completed(handshake: &Handshake) {
    let source = Source::new(handshake.source);
    let now = Now::read();
    let mut entry = sources::find(source);
    if entry.is_some() {
        // The filter may have lost it when it was rebuilt.
        known::insert(source);
    } else {
        if !handshake.is_in_our_namespace || !guarded::contains(handshake.interface) {
            return;
        }
        // Its SYN went uncounted in a flood of others. Who completes a handshake has earned an entry.
        admit(source, now);
        entry = sources::find(source);
        if let Some(entry) = &mut entry {
            sources::count(&mut entry.syn);
            counts::add(Counter::CompletedUntracked);
        }
    }
    let Some(entry) = entry else { return };
    sources::count(&mut entry.completed);
    let proves = now.jiffies >= entry.proven_until;
    entry.proven_until = now.jiffies + control::proven_ticks();
    let period = now.window_period();
    entry.recent.add(period);
    if let Some(rate) = Leave::read(now).rate() {
        rate.fill(&mut entry.tokens, now.jiffies.saturating_sub(entry.last_seen));
        rate.give_back(&mut entry.tokens);
    }
    entry.last_seen = now.jiffies;
    match handshakes::complete(source, handshake, period) {
        Some(began) => entry.half_open.close(began),
        None => entry.half_open.close_newest(period),
    }
    challenge::spend(source, handshake);
    prefixes::count_end(source, now);
    ports::count_completed(handshake, proves);
    counts::add(Counter::Completed);
}

/// The kernel sent a SYN-ACK again.
#[inline(always)]
pub fn retried(handshake: &Handshake) {
    let entry = sources::find(Source::new(handshake.source));
    if let Some(entry) = entry {
        atomic::add_u32(&mut entry.retried, 1);
    } else if !handshake.is_in_our_namespace {
        return;
    }
    ports::count_retried(handshake.local_port);
    counts::add(Counter::Retried);
}

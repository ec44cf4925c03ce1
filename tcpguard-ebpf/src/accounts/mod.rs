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

use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;
use tcpguard_common::{
    address::Address,
    counters::Counter,
    event::{SourceBusy, is_busy_mark},
    hash,
    packet::Segment,
    source::SourceEntry,
};

use crate::{events, settings, socket::Handshake, time::Now};

/// A source and its hash, which every structure is indexed by.
#[derive(Clone, Copy)]
struct Source {
    address: Address,
    hash: u64,
}

impl Source {
    #[inline(always)]
    fn new(address: Address) -> Self {
        Self { address, hash: hash::address(settings::hash_key(), address) }
    }
}

/// A SYN arrived. False where nothing is remembered of its source, because of a flood of others.
#[inline(always)]
pub fn syn(context: &XdpContext, segment: &Segment) -> bool {
    let now = Now::read();
    let source = Source::new(segment.source);
    ports::count_syn(segment.destination_port);
    distinct::observe(source, now);
    prefixes::count_syn(source, now);
    if known::may_contain(source)
        && let Some(entry) = sources::find(source)
    {
        syn_of_known(entry, source, segment, now);
        return true;
    }
    if !sketch::count(source, now) {
        return false;
    }
    if admit(source, now) {
        sketch::note_admission();
    }
    debug!(context, "new source {:i}, SYN to port {}", segment.source.octets(), segment.destination_port);
    match sources::find(source) {
        Some(entry) => {
            syn_of_known(entry, source, segment, now);
            true
        }
        None => false,
    }
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
fn syn_of_known(entry: &mut SourceEntry, source: Source, segment: &Segment, now: Now) {
    sources::count(&mut entry.syn);
    entry.last_seen = now.jiffies;
    let period = now.window_period();
    if handshakes::begin(source, segment, period) {
        let count = entry.half_open.open(period);
        if is_busy_mark(count) {
            events::report(SourceBusy { source: source.address, half_open: count.into() });
        }
    } else {
        counts::add(Counter::SynRepeated);
    }
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
    sources::count(&mut entry.resets);
    let now = Now::read();
    if let Some(began) = handshakes::reset(source, segment, now.window_period()) {
        entry.half_open.close(began);
        prefixes::count_end(source, now);
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
    entry.last_seen = now.jiffies;
    let period = now.window_period();
    match handshakes::complete(source, handshake, period) {
        Some(began) => entry.half_open.close(began),
        None => entry.half_open.close_newest(period),
    }
    prefixes::count_end(source, now);
    ports::count_completed(handshake.local_port);
    counts::add(Counter::Completed);
}

/// The kernel sent a SYN-ACK again.
#[inline(always)]
pub fn retried(handshake: &Handshake) {
    let entry = sources::find(Source::new(handshake.source));
    if let Some(entry) = entry {
        sources::count(&mut entry.retried);
    } else if !handshake.is_in_our_namespace {
        return;
    }
    ports::count_retried(handshake.local_port);
    counts::add(Counter::Retried);
}

//! The stages that a segment passes before it is accounted. Each looks at one thing; the first that
//! drops it ends its way.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use tcpguard_common::{
    atomic,
    control::{flag, payload_policy},
    counters::Counter,
    drops::DropReason,
    event::{Event, kind},
    rule::Standing,
    source::SourceEntry,
};

use crate::{
    accounts::counts,
    arrival::Arrival,
    challenge::Challenge,
    control::{self, Leave},
    events,
    outcome::Outcome,
    rules,
    time::Now,
};

/// What holds for SYNs with data, by destination port.
#[btf_map]
static PAYLOAD_POLICY: Array<u32, 65_536> = Array::new();

/// A segment that no TCP sends.
#[inline(always)]
pub fn malformed(reason: DropReason) -> Option<Outcome> {
    Leave::read(Now::read()).drop(reason)
}

/// A SYN from or to port 0, which no TCP has.
#[inline(always)]
pub fn port_zero(arrival: &Arrival) -> Option<Outcome> {
    if arrival.segment.source_port != 0 && arrival.segment.destination_port != 0 {
        return None;
    }
    arrival.drop(DropReason::PortZero)
}

/// A SYN with data, where its service is under attack.
#[inline(always)]
pub fn payload(arrival: &Arrival, standing: Standing) -> Option<Outcome> {
    if arrival.segment.payload_length == 0 {
        return None;
    }
    counts::add(Counter::SynWithPayload);
    if matches!(standing, Standing::Allowed) {
        return None;
    }
    let policy =
        PAYLOAD_POLICY.get(arrival.segment.destination_port.into()).map_or(payload_policy::HOST, |policy| *policy);
    let is_unwanted = match policy {
        payload_policy::PASS => false,
        payload_policy::DROP => true,
        _ => arrival.leave.has(flag::DROP_PAYLOAD),
    };
    if is_unwanted { arrival.drop(DropReason::SynPayload) } else { None }
}

/// What the lists say of its source, and the outcome where that is a denial.
#[inline(always)]
pub fn rules(arrival: &Arrival) -> (Standing, Option<Outcome>) {
    if !arrival.leave.has(flag::RULES) {
        return (Standing::Ordinary, None);
    }
    let [high, low] = arrival.source.address.words();
    match rules::standing(high, low, arrival.leave.generation(), arrival.now.jiffies) {
        Standing::Denied => (Standing::Ordinary, arrival.drop(DropReason::Denied)),
        standing => (standing, None),
    }
}

/// A SYN of a source without an entry: it is not proven, so that a block of its network holds for it.
#[inline(always)]
pub fn unknown_source(arrival: &Arrival, standing: Standing) -> Option<Outcome> {
    match standing {
        Standing::Suspended => arrival.drop(DropReason::BlockedPrefix),
        _ => None,
    }
}

/// A SYN of a source with an entry: is it blocked, or its network, or has it sent too many?
#[inline(always)]
pub fn known_source(entry: &mut SourceEntry, arrival: &Arrival, standing: Standing) -> Option<Outcome> {
    // Another CPU may have seen a later tick already.
    let elapsed = arrival.now.jiffies.saturating_sub(entry.last_seen);
    entry.last_seen = arrival.now.jiffies;
    if matches!(standing, Standing::Allowed) {
        return None;
    }
    if arrival.now.jiffies < entry.blocked_until
        && let Some(outcome) = drop_of(entry, arrival, DropReason::Blocked)
    {
        return Some(outcome);
    }
    if matches!(standing, Standing::Suspended)
        && entry.completed == 0
        && let Some(outcome) = drop_of(entry, arrival, DropReason::BlockedPrefix)
    {
        return Some(outcome);
    }
    let rate = arrival.leave.rate()?;
    rate.fill(&mut entry.tokens, elapsed);
    if rate.take(&mut entry.tokens) { None } else { drop_of(entry, arrival, DropReason::RateLimit) }
}

/// How a SYN of a source with an entry is challenged: not where it has proved itself.
#[inline(always)]
pub fn challenge_of_known(entry: &SourceEntry, arrival: &Arrival, standing: Standing) -> Challenge {
    if !arrival.leave.has(flag::CHALLENGE) || matches!(standing, Standing::Allowed) {
        return Challenge::None;
    }
    let now = arrival.now;
    if entry.is_proven(now.jiffies, now.window_period(), control::most_half_open()) {
        return Challenge::None;
    }
    Challenge::of(arrival)
}

#[inline(always)]
fn drop_of(entry: &mut SourceEntry, arrival: &Arrival, reason: DropReason) -> Option<Outcome> {
    let outcome = arrival.drop(reason)?;
    if entry.dropped == 0 {
        report_first_drop(arrival, reason);
    }
    atomic::add(&mut entry.dropped, 1);
    Some(outcome)
}

#[inline(always)]
fn report_first_drop(arrival: &Arrival, reason: DropReason) {
    events::report(Event {
        kind: kind::FIRST_DROP,
        reason: reason as u32,
        source: arrival.source.address,
        half_open: 0,
    });
}

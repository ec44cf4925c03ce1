//! Ports that are challenged by reset: the resets by which clients answer, and the SYNs that these release.

use aya_ebpf::EbpfContext as _;
use tcpguard_common::{
    abi::{counters::DropReason, lease::flag, port::port_flag},
    challenge::safe_reset::Flow,
    packet::{Flags, Segment},
};

use super::limits::Arrival;
use crate::{
    behind::places,
    challenge::{first_syn, listeners, port_load, safe_reset as resets},
    hook::Context,
    lease::{self, Lease},
    syn::Syn,
    time::Now,
    verdict::Verdict,
};

/// Drops a reset by which a client answers a challenge, and releases its flow. Such a reset acknowledges nothing (RFC 9293
/// 3.10.7.3).
#[inline(always)]
pub fn returned_reset(context: &Context, segment: &Segment) -> Result<(), Verdict> {
    // In calm, this reads one word, and on hosts that do not send cookies two elements of arrays.
    if lease::flags() & flag::RESETS == 0 || segment.flags.0 & Flags::ACK != 0 {
        return Ok(());
    }
    let now = Now::read();
    let lease = Lease::read(now);
    if lease.has(flag::RESETS)
        && is_asked_for(places::of(segment.destination, segment.destination_port), now)
        && resets::released_by(context.as_ptr().cast(), segment.place(), now.jiffies) != 0
    {
        return lease.drop(DropReason::ReturnedReset);
    }
    Ok(())
}

/// Returns whether clients of a place are asked for resets, or were a moment ago.
#[inline(always)]
fn is_asked_for(place: u32, now: Now) -> bool {
    listeners::challenge_of(place).is_some_and(|challenge| {
        challenge.has(port_flag::RESET)
            || challenge.has(port_flag::TRIGGERS_RESET) && port_load::was_exceeded(place, now)
    })
}

/// Returns whether a SYN reaches a port that is challenged by reset: its client has answered with a reset, or is taken for
/// one whose resets are suppressed.
#[inline(always)]
pub fn is_let_in(syn: &Syn, arrival: Arrival) -> bool {
    let flow = resets::flow_of(syn);
    if matches!(flow, Flow::Released) {
        return true;
    }
    let is_repeat = arrival != Arrival::Unchecked || first_syn::is_repeat(syn);
    // What the kernel answered was lost: nothing is asked for again, and the limit is for those of whom nothing is known.
    is_repeat && (matches!(flow, Flow::Passed) || port_load::takes_repeat(syn))
}

//! Challenges of SYNs whose source is not proven.

use tcpguard_common::{
    abi::{
        counters::DropReason,
        lease::flag,
        port::{PortChallenge, port_flag},
        rule::Standing,
    },
    tracking::source::SourceEntry,
};

use super::{limits::Arrival, safe_reset};
use crate::{
    accounting,
    challenge::{Challenge, first_syn as syns, listeners, port_load},
    lease,
    syn::Syn,
    time::Now,
    verdict::Verdict,
};

/// Returns how a SYN of a source without an entry is challenged.
#[inline(always)]
pub fn of_new(syn: &Syn, standing: Standing) -> Challenge {
    permitted(of_unproven(syn), standing)
}

/// Returns how a SYN of a source with an entry is challenged: not at all if the source is proven and its address is not
/// used by a flood, or the SYN came over the path of its completed handshakes.
#[inline(always)]
pub fn of_tracked(entry: &mut SourceEntry, syn: &Syn, standing: Standing) -> Challenge {
    if !syn.lease.has(flag::CHALLENGE) {
        return Challenge::None;
    }
    let is_exempt = is_exempt(entry, syn.now, syn.segment.time_to_live);
    if is_exempt && !syn.lease.has(flag::CHALLENGE_PROVEN) {
        return Challenge::None;
    }
    // Neither is ever delayed.
    let standing = if is_exempt { Standing::Allowed } else { standing };
    permitted(of_unproven(syn), standing)
}

/// Returns whether a source completes handshakes here, and the SYN is its own as far as anything tells: few of its handshakes
/// are half open, or the SYN came over the path of those that completed.
#[inline(always)]
pub fn is_exempt(entry: &mut SourceEntry, now: Now, time_to_live: u8) -> bool {
    entry.is_proven(now.jiffies, now.window_period(), lease::max_half_open())
        || entry.is_on_proven_path(now.jiffies, time_to_live)
}

/// A SYN of an allowed source is never dropped. It may be answered with a cookie like any other: its address may be
/// forged, and a cookie costs a client nothing.
#[inline(always)]
fn permitted(challenge: Challenge, standing: Standing) -> Challenge {
    match (challenge, standing) {
        (Challenge::Retransmit | Challenge::Reset, Standing::Allowed) => Challenge::None,
        _ => challenge,
    }
}

/// Stops a SYN that is not to reach the kernel yet: at a port that is challenged by retransmit the first one of its connection,
/// at one that is challenged by reset until the client has answered. A SYN that an earlier stage found to be a retransmit is
/// not looked up again.
#[inline(always)]
pub fn hold_back(challenge: Challenge, syn: &Syn, arrival: Arrival) -> Result<(), Verdict> {
    match challenge {
        Challenge::Retransmit if arrival == Arrival::Unchecked && !syns::is_repeat(syn) => {
            syn.drop(DropReason::FirstSyn)
        }
        Challenge::Reset if !safe_reset::is_let_in(syn, arrival) => {
            accounting::not_begun(syn.place.number, true);
            Err(Verdict::SYN_PROMPTED)
        }
        _ => Ok(()),
    }
}

#[inline(always)]
fn of_unproven(syn: &Syn) -> Challenge {
    if !syn.lease.has(flag::CHALLENGE) {
        return Challenge::None;
    }
    let Some(port) = listeners::challenge_of(syn.place.number) else { return Challenge::None };
    if port.flags == 0 {
        return Challenge::None;
    }
    let flags = active_flags(port, syn);
    let may_be_answered = may_be_answered(syn);
    if may_be_answered
        && !syn.place.is_behind
        && flags & port_flag::COOKIE != 0
        && listeners::takes_cookies(port, syn.segment)
    {
        Challenge::Cookie
    } else if may_be_answered && flags & port_flag::RESET != 0 {
        Challenge::Reset
    } else if flags & (port_flag::RETRANSMIT | port_flag::RESET) != 0 {
        // Where the host's addresses are not known, SYNs for other hosts are delayed as well: they are retransmitted too.
        Challenge::Retransmit
    } else {
        Challenge::None
    }
}

/// Returns whether a SYN may be answered in the name of its destination. Where the host's own addresses are known, an earlier
/// stage has found the destination among them.
#[inline(always)]
fn may_be_answered(syn: &Syn) -> bool {
    (syn.place.is_behind || syn.lease.has(flag::LOCAL_KNOWN)) && listeners::may_be_answered(syn.segment)
}

/// Returns the port's flags, with a challenge added once too many SYNs arrive.
#[inline(always)]
fn active_flags(port: &PortChallenge, syn: &Syn) -> u32 {
    let is_unchanged = port.has(port_flag::ON) || !port.has(port_flag::TRIGGERS) || !port_load::is_exceeded(syn);
    if is_unchanged { port.flags } else { port.triggered() }
}

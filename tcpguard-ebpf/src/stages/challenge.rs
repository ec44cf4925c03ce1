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

use crate::{
    challenge::{Challenge, first_syn as syns, listeners, port_load},
    lease,
    syn::Syn,
    verdict::Verdict,
};

/// Returns how a SYN of a source without an entry is challenged.
#[inline(always)]
pub fn of_new(syn: &Syn, standing: Standing) -> Challenge {
    if matches!(standing, Standing::Allowed) { Challenge::None } else { of_unproven(syn) }
}

/// Returns how a SYN of a source with an entry is challenged: not at all if the source is proven.
#[inline(always)]
pub fn of_tracked(entry: &SourceEntry, syn: &Syn, standing: Standing) -> Challenge {
    if !syn.lease.has(flag::CHALLENGE) || matches!(standing, Standing::Allowed) {
        return Challenge::None;
    }
    let now = syn.now;
    if entry.is_proven(now.jiffies, now.window_period(), lease::max_half_open()) {
        return Challenge::None;
    }
    of_unproven(syn)
}

/// Drops the first SYN of a connection to a port that is challenged by retransmit.
#[inline(always)]
pub fn first_syn(challenge: Challenge, syn: &Syn) -> Result<(), Verdict> {
    match challenge {
        Challenge::Retransmit if !syns::is_repeat(syn) => syn.drop(DropReason::FirstSyn),
        _ => Ok(()),
    }
}

#[inline(always)]
fn of_unproven(syn: &Syn) -> Challenge {
    if !syn.lease.has(flag::CHALLENGE) {
        return Challenge::None;
    }
    let Some(port) = listeners::challenge_of(syn.segment.destination_port) else { return Challenge::None };
    if port.flags == 0 {
        return Challenge::None;
    }
    let flags = active_flags(port, syn);
    if flags & port_flag::COOKIE != 0 && listeners::takes_cookies(port, syn.segment) {
        Challenge::Cookie
    } else if flags & port_flag::RETRANSMIT != 0
        && (!syn.lease.has(flag::LOCAL_KNOWN) || listeners::has_listener(port, syn.segment))
    {
        // Where the host's addresses are not known, SYNs for other hosts are delayed as well: they are retransmitted too.
        Challenge::Retransmit
    } else {
        Challenge::None
    }
}

/// Returns the port's flags, with a challenge added once too many SYNs arrive.
#[inline(always)]
fn active_flags(port: &PortChallenge, syn: &Syn) -> u32 {
    const ON: u32 = port_flag::COOKIE | port_flag::RETRANSMIT;
    const TRIGGERS: u32 = port_flag::TRIGGERS_COOKIE | port_flag::TRIGGERS_RETRANSMIT;
    if port.has(ON) || !port.has(TRIGGERS) || !port_load::is_exceeded(syn) {
        return port.flags;
    }
    if port.has(port_flag::TRIGGERS_COOKIE) { port_flag::COOKIE } else { port_flag::RETRANSMIT }
}

//! Blocks and rate limits.

use tcpguard_common::{
    abi::{
        counters::DropReason,
        event::{Event, kind},
        rule::Standing,
    },
    atomic,
    tracking::source::SourceEntry,
};

use crate::{challenge::first_syn, events, syn::Syn, verdict::Verdict};

/// Drops the first SYN of a connection from a blocked prefix whose source has no entry, and is therefore not proven.
#[inline(always)]
pub fn blocked_prefix(syn: &Syn, standing: Standing) -> Result<Arrival, Verdict> {
    if !matches!(standing, Standing::Blocked) {
        return Ok(Arrival::Unchecked);
    }
    if first_syn::is_repeat(syn) {
        return Ok(Arrival::Repeat);
    }
    syn.drop(DropReason::BlockedPrefix).map(|()| Arrival::Unchecked)
}

/// Drops the first SYN of a connection from a blocked source, from an unproven source of a blocked prefix, or above the
/// rate limit of its source. Its retransmit passes, because the address may be forged and a client may have it; and a
/// SYN over the path of a source's completed handshakes passes at once.
#[inline(always)]
pub fn source_limits(entry: &mut SourceEntry, syn: &Syn, standing: Standing) -> Result<Arrival, Verdict> {
    let jiffies = syn.now.jiffies;
    // Another CPU may have seen a later jiffy already.
    let elapsed = jiffies.saturating_sub(entry.last_seen);
    entry.last_seen = jiffies;
    if matches!(standing, Standing::Allowed) {
        return Ok(Arrival::Unchecked);
    }
    let rate = syn.lease.rate();
    if let Some(rate) = rate {
        rate.fill(&mut entry.tokens, elapsed);
    }
    let reason = if jiffies < entry.blocked_until {
        DropReason::Blocked
    } else if matches!(standing, Standing::Blocked) && entry.completed == 0 {
        DropReason::BlockedPrefix
    } else if rate.is_none_or(|rate| rate.take(&mut entry.tokens)) {
        return Ok(Arrival::Unchecked);
    } else {
        DropReason::RateLimit
    };
    if entry.is_on_proven_path(jiffies, syn.segment.time_to_live) {
        return Ok(Arrival::Unchecked);
    }
    if !first_syn::is_repeat(syn) {
        return drop(entry, syn, reason).map(|()| Arrival::Unchecked);
    }
    // Retransmits of a blocked source are limited. Above its rate limit alone they are not: its other SYNs leave no tokens.
    let is_within_limit =
        matches!(reason, DropReason::RateLimit) || rate.is_none_or(|rate| rate.take_for_repeat(&mut entry.tokens));
    Ok(if is_within_limit { Arrival::Repeat } else { Arrival::RepeatAboveLimit })
}

/// Drops a retransmit above the rate limit of its source, unless it is answered with a cookie: that costs so little that
/// there is no need to.
#[inline(always)]
pub fn repeat_limit(entry: &mut SourceEntry, syn: &Syn, arrival: Arrival, is_cookie: bool) -> Result<(), Verdict> {
    match arrival {
        Arrival::RepeatAboveLimit if !is_cookie => drop(entry, syn, DropReason::RateLimit),
        _ => Ok(()),
    }
}

/// What is known of a SYN that the limits let through.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It was not checked whether it is a retransmit.
    Unchecked,
    /// It is a retransmit.
    Repeat,
    /// It is a retransmit, and its source exceeds the rate limit.
    RepeatAboveLimit,
}

/// Drops a SYN, counts that for its source, and reports the source's first drop.
#[inline(always)]
fn drop(entry: &mut SourceEntry, syn: &Syn, reason: DropReason) -> Result<(), Verdict> {
    syn.drop(reason).inspect_err(|_| {
        if entry.dropped == 0 {
            let (kind, source) = (kind::FIRST_DROP, syn.source.address);
            events::report(Event { kind, reason: reason as u32, source, half_open: 0 });
        }
        atomic::add(&mut entry.dropped, 1);
    })
}

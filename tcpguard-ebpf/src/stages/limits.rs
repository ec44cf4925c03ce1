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

use crate::{events, syn::Syn, verdict::Verdict};

/// Drops a SYN of a blocked prefix whose source has no entry, and is therefore not proven.
#[inline(always)]
pub fn blocked_prefix(syn: &Syn, standing: Standing) -> Result<(), Verdict> {
    match standing {
        Standing::Blocked => syn.drop(DropReason::BlockedPrefix),
        _ => Ok(()),
    }
}

/// Drops a SYN of a blocked source, of an unproven source of a blocked prefix, or above the rate limit of its source.
#[inline(always)]
pub fn source_limits(entry: &mut SourceEntry, syn: &Syn, standing: Standing) -> Result<(), Verdict> {
    // Another CPU may have seen a later jiffy already.
    let elapsed = syn.now.jiffies.saturating_sub(entry.last_seen);
    entry.last_seen = syn.now.jiffies;
    if matches!(standing, Standing::Allowed) {
        return Ok(());
    }
    if syn.now.jiffies < entry.blocked_until {
        drop(entry, syn, DropReason::Blocked)?;
    }
    if matches!(standing, Standing::Blocked) && entry.completed == 0 {
        drop(entry, syn, DropReason::BlockedPrefix)?;
    }
    let Some(rate) = syn.lease.rate() else { return Ok(()) };
    rate.fill(&mut entry.tokens, elapsed);
    if rate.take(&mut entry.tokens) { Ok(()) } else { drop(entry, syn, DropReason::RateLimit) }
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

//! SYNs with a signature of the flood in progress.

use tcpguard_common::{
    abi::{counters::DropReason, lease::flag, rule::Standing, signature::is_tried},
    address::Address,
    packet::Shape,
};

use super::challenge::is_exempt;
use crate::{
    accounting::sources,
    signatures,
    source::{Source, client_of},
    syn::Syn,
    time::Now,
    verdict::Verdict,
};

/// Drops a SYN that looks like those of the flood, unless its source is allowed or completes handshakes here, or is one of the
/// few whose turn it is to be let through.
#[inline(always)]
pub fn signature(syn: &Syn, standing: Standing) -> Result<(), Verdict> {
    if !syn.lease.has(flag::SIGNATURES)
        || matches!(standing, Standing::Allowed)
        || !signatures::is_one_of(Shape::of(syn.segment))
    {
        return Ok(());
    }
    if is_tried(syn.source.hash, syn.now.window_period()) {
        signatures::note_tried(client_of(syn.source, syn.segment), syn.now);
        return Ok(());
    }
    let [high, low] = syn.source.address.words();
    if completes_here(high, low, syn.source.hash, syn.now.jiffies, syn.segment.time_to_live.into()) != 0 {
        return Ok(());
    }
    syn.drop(DropReason::Signature)
}

/// Returns 1 if the source whose address consists of these two words, and has this hash, completes handshakes here. It is a global function, which
/// the verifier checks on its own: what follows is the same for both answers.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn completes_here(high: u64, low: u64, hash: u64, jiffies: u64, time_to_live: u32) -> u32 {
    let source = Source { address: Address::from_words([high, low]), hash };
    sources::find(source).is_some_and(|entry| is_exempt(entry, Now::at(jiffies), time_to_live as u8)).into()
}

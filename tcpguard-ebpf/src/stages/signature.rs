//! SYNs with a signature of the flood in progress.

use tcpguard_common::{
    abi::{counters::DropReason, lease::flag, rule::Standing, signature::is_tried},
    packet::Shape,
};

use super::challenge::is_exempt;
use crate::{accounting::sources, signatures, source::client_of, syn::Syn, verdict::Verdict};

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
    if sources::find_known(syn.source).is_some_and(|entry| is_exempt(entry, syn)) {
        return Ok(());
    }
    syn.drop(DropReason::Signature)
}

//! Allow, deny and block entries of networks.

use tcpguard_common::abi::{counters::DropReason, rule::Standing};

use crate::{rules, syn::Syn, verdict::Verdict};

/// Drops a SYN of a denied network; returns the standing of its source otherwise.
#[inline(always)]
pub fn lists(syn: &Syn) -> Result<Standing, Verdict> {
    match rules::standing_of(syn.source.address, syn.lease, syn.now) {
        Standing::Denied => {
            syn.drop(DropReason::Denied)?;
            Ok(Standing::Ordinary)
        }
        standing => Ok(standing),
    }
}

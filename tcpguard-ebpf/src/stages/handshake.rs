//! SYNs that begin no handshake, because they are retransmits.

use crate::{accounting, challenge::Challenge, syn::Syn, verdict::Verdict};

/// Lets a retransmitted SYN pass, or be answered once more, without counting another handshake.
#[inline(always)]
pub fn retransmit(syn: &Syn, challenge: Challenge) -> Result<(), Verdict> {
    if accounting::is_first_syn(syn.source, syn.segment, syn.now) {
        return Ok(());
    }
    accounting::retransmitted(syn.place.number, challenge.is_cookie());
    Err(challenge.applied_to(Verdict::SYN_REPEATED))
}

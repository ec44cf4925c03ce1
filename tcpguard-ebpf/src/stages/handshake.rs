//! SYNs that begin no handshake to be judged: retransmits, and SYNs that are not served here.

use tcpguard_common::abi::lease::flag;

use crate::{accounting, challenge::Challenge, local, syn::Syn, verdict::Verdict};

/// Lets a retransmitted SYN pass, or be answered once more, without counting another handshake.
#[inline(always)]
pub fn retransmit(syn: &Syn, challenge: Challenge) -> Result<(), Verdict> {
    if accounting::is_first_syn(syn.source, syn.segment, syn.now) {
        return Ok(());
    }
    accounting::retransmitted(syn.segment.destination_port, challenge.is_cookie());
    Err(challenge.applied_to(Verdict::SYN_REPEATED))
}

/// Lets a SYN pass that is for another host, or for a port whose listener closed recently: its handshake is not judged.
#[inline(always)]
pub fn destination(syn: &Syn) -> Result<(), Verdict> {
    let verdict = if syn.lease.has(flag::LOCAL_KNOWN) && !local::has_address(syn.segment.destination) {
        Verdict::SYN_FORWARDED
    } else if local::closed_recently(syn.segment.destination_port, syn.now.jiffies) {
        Verdict::SYN_CLOSED
    } else {
        return Ok(());
    };
    accounting::not_judged(syn.source, syn.segment, syn.now);
    Err(verdict)
}

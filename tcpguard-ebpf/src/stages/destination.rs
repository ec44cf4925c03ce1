//! SYNs that are not judged, because their handshakes do not complete on this host or in this network namespace: neither
//! their number nor their sources are evidence of anything.

use tcpguard_common::abi::{counters::DropReason, lease::flag, rule::Standing};

use crate::{accounting, behind::hand_over, challenge::first_syn, hook::Context, local, syn::Syn, verdict::Verdict};

/// Lets a SYN pass that is for another host, or for a port without a listener. If this host protects that one, or the port is
/// redirected, another program judges the SYN, and this function does not return. While closed ports are flooded, only retransmits pass, because the kernel answers
/// every SYN with a reset.
#[inline(always)]
pub fn destination(context: &Context, syn: &Syn, standing: Standing) -> Result<(), Verdict> {
    if syn.lease.has(flag::LOCAL_KNOWN) && !local::has_address(syn.segment.destination) {
        hand_over::to_other_host(context, syn);
        accounting::not_begun(syn.place.number, false);
        return Err(Verdict::SYN_FORWARDED);
    }
    if !syn.lease.has(flag::LISTENERS_KNOWN) || local::is_listening(syn.segment.destination_port) {
        return Ok(());
    }
    hand_over::to_other_port(context, syn);
    if syn.lease.has(flag::LIMIT_CLOSED) && !matches!(standing, Standing::Allowed) && !first_syn::is_repeat(syn) {
        syn.drop(DropReason::ClosedPort)?;
    }
    accounting::to_closed_port(context, syn.source, syn.segment, syn.now, syn.lease);
    Err(Verdict::SYN_CLOSED)
}

//! What the headers alone tell: frames that cannot be parsed, segments that no TCP implementation sends, and SYNs with
//! data.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use tcpguard_common::{
    abi::{
        counters::{Counter, DropReason},
        lease::{flag, payload_policy},
        rule::Standing,
    },
    packet::{self, Segment, Unread},
};

use crate::{
    accounting::counters, frame::Frame, hook::Context, lease::Lease, local, syn::Syn, time::Now, verdict::Verdict,
};

/// How SYNs with data are handled, by destination port. Written by the daemon.
#[btf_map]
static PAYLOAD_POLICY: Array<u32, 65_536> = Array::new();

/// Parses the frame. One without a TCP segment passes, unless its data offset is invalid.
#[inline(always)]
pub fn parse(context: &Context) -> Result<Segment, Verdict> {
    packet::parse(&Frame::of(context)).map_err(|reason| {
        if matches!(reason, Unread::BadDataOffset)
            && let Err(dropped) = Lease::read(Now::read()).drop(DropReason::BadDataOffset)
        {
            return dropped;
        }
        Verdict::unparsed(reason)
    })
}

/// Drops a segment with a flag combination that no TCP implementation sends.
#[inline(always)]
pub fn invalid_flags() -> Result<(), Verdict> {
    Lease::read(Now::read()).drop(DropReason::BadFlags)
}

/// Drops a SYN from or to port 0.
#[inline(always)]
pub fn port_zero(syn: &Syn) -> Result<(), Verdict> {
    if syn.segment.source_port != 0 && syn.segment.destination_port != 0 {
        return Ok(());
    }
    syn.drop(DropReason::PortZero)
}

/// Drops a SYN from an address that no remote host has.
#[inline(always)]
pub fn impossible_source(syn: &Syn) -> Result<(), Verdict> {
    if syn.segment.source.may_be_answered() { Ok(()) } else { syn.drop(DropReason::ImpossibleSource) }
}

/// Drops a SYN from one of the host's own addresses. No source with an entry has one, so that this look-up is left out
/// for them.
#[inline(always)]
pub fn own_source(syn: &Syn) -> Result<(), Verdict> {
    if !syn.lease.has(flag::LOCAL_KNOWN) || !local::has_address(syn.segment.source) {
        return Ok(());
    }
    syn.drop(DropReason::ImpossibleSource)
}

/// Drops a SYN with data while its service is under attack.
#[inline(always)]
pub fn payload(syn: &Syn, standing: Standing) -> Result<(), Verdict> {
    if syn.segment.payload_length == 0 {
        return Ok(());
    }
    counters::add(Counter::SynWithPayload);
    if matches!(standing, Standing::Allowed) {
        return Ok(());
    }
    let policy = PAYLOAD_POLICY.get(syn.segment.destination_port.into()).map_or(payload_policy::HOST, |policy| *policy);
    let is_unwanted = match policy {
        payload_policy::PASS => false,
        payload_policy::DROP => true,
        _ => syn.lease.has(flag::DROP_PAYLOAD),
    };
    if is_unwanted { syn.drop(DropReason::SynPayload) } else { Ok(()) }
}

//! What the headers alone tell: frames that cannot be parsed, segments that no TCP implementation sends, and SYNs with
//! data.

use aya_ebpf::{EbpfContext as _, btf_maps::Array, macros::btf_map};
use tcpguard_common::{
    abi::{
        counters::{Counter, DropReason},
        lease::{flag, payload_policy},
        rule::Standing,
    },
    packet::{self, Segment, Unread},
};

use crate::{
    accounting::counters,
    frame::Frame,
    hook::{Context, RawContext},
    lease::Lease,
    local, rules,
    syn::Syn,
    time::Now,
    verdict::Verdict,
};

/// How SYNs with data are handled, by destination port. Written by the daemon.
#[btf_map]
static PAYLOAD_POLICY: Array<u32, 65_536> = Array::new();

/// Parses the frame. One without a readable TCP segment passes, unless it may be a part of a SYN.
#[inline(always)]
pub fn parse(context: &Context) -> Result<Segment, Verdict> {
    packet::parse(&Frame::of(context)).map_err(|reason| {
        let unread = Verdict::unparsed(reason);
        let Some(reason) = malformation(context, reason) else { return unread };
        Lease::read(Now::read()).drop(reason).err().unwrap_or(unread)
    })
}

/// Returns why a frame without a readable TCP segment is dropped, if it is.
#[inline(always)]
fn malformation(context: &Context, reason: Unread) -> Option<DropReason> {
    match reason {
        // No TCP, or discarded by the kernel.
        Unread::NotIp | Unread::NotTcp | Unread::BadIpHeader => None,
        Unread::BadDataOffset => Some(DropReason::BadDataOffset),
        Unread::TooManyTags => Some(DropReason::TooManyTags),
        Unread::TooManyExtensions => Some(DropReason::TooManyExtensions),
        Unread::TinyFragment => Some(DropReason::TinyFragment),
        Unread::FragmentedSyn => Some(DropReason::FragmentedSyn),
        // Without the first fragment, which is judged by its TCP header, these are never read by the kernel.
        Unread::LaterFragment | Unread::Truncated => {
            (is_unwanted(context.as_ptr().cast()) != 0).then_some(DropReason::DeniedFragment)
        }
    }
}

/// Returns 1 if the frame's source is denied or an address that no remote host has. It is a global function, which the
/// verifier checks on its own: few frames get here, and the others would pay for its stack.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn is_unwanted(context: *mut RawContext) -> u32 {
    let Some(source) = packet::source(&Frame::of(&Context::new(context))) else { return 0 };
    let now = Now::read();
    let standing = rules::standing_of(source, Lease::read(now), now);
    (!source.may_be_answered() || matches!(standing, Standing::Denied)).into()
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

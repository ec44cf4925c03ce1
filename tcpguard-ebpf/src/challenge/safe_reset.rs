//! Safe reset ([`tcpguard_common::challenge::safe_reset`]): recognising the resets by which clients answer, and the SYNs that
//! these release.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use tcpguard_common::{
    challenge::safe_reset::{self, SETS, Secret, Set},
    packet::Segment,
};

use crate::{
    frame::Frame,
    hook::{Context, RawContext},
    lease,
    source::{Source, client_of, connection_of},
    syn::Syn,
    time::Now,
};

/// The flows that a reset released.
#[btf_map]
static RELEASED_FLOWS: Array<Set, { SETS as usize }> = Array::new();

/// Returns the code of the answer to a SYN.
#[inline(always)]
pub fn code_of(syn: &Segment) -> u32 {
    code(lease::secret(), syn)
}

/// Returns whether the flow of a SYN is released. That holds for one SYN.
#[inline(always)]
pub fn releases(syn: &Syn) -> bool {
    let connection = syn.connection();
    set(connection).is_some_and(|set| safe_reset::take(set, connection, syn.segment.sequence, syn.now.slot()))
}

/// Returns 1 if the segment is a reset that answers a challenge, and releases its flow. It is a global function, which the
/// verifier checks on its own.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn released_by(context: *mut RawContext, place: u64, jiffies: u64) -> u32 {
    let frame = Frame::of(&Context::new(context));
    let Some(segment) = Segment::at(&frame, place) else { return 0 };
    if !answers(&segment) {
        return 0;
    }
    let connection = connection_of(client_of(Source::new(segment.source), &segment), &segment);
    if let Some(set) = set(connection) {
        // A copy of the reset releases nothing, but is not meant for the kernel either.
        safe_reset::release(set, connection, segment.sequence, Now::at(jiffies).slot());
    }
    1
}

#[inline(always)]
fn answers(reset: &Segment) -> bool {
    let (now, before) = (lease::secret(), lease::secret_before());
    safe_reset::has_code(reset.sequence, code(now, reset))
        || before != now && safe_reset::has_code(reset.sequence, code(before, reset))
}

/// Returns the code for the flow of a segment that its client sent.
#[inline(always)]
fn code(secret: Secret, segment: &Segment) -> u32 {
    let ports = safe_reset::ports(segment.source_port, segment.destination_port);
    secret.code(segment.source, segment.destination, ports)
}

#[inline(always)]
fn set<'a>(connection: u64) -> Option<&'a mut Set> {
    let set = RELEASED_FLOWS.get_ptr_mut(safe_reset::set(connection))?;
    // SAFETY: elements of an array live as long as the program, and one word is written at once: two CPUs at the same set
    // leave one flow or the other.
    Some(unsafe { &mut *set })
}

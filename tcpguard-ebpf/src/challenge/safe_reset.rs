//! Safe reset ([`tcpguard_common::challenge::safe_reset`]): recognising the resets by which clients answer, and the SYNs that
//! these release.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use tcpguard_common::{
    challenge::safe_reset::{self, Flow, SETS, Secret, Set},
    packet::Segment,
};

use crate::{
    frame::Frame,
    hook::{Context, RawContext},
    lease,
    source::{Source, connection_of},
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

/// Returns what is known of the flow of a SYN. If it is released, this SYN is the one that passes.
#[inline(always)]
pub fn flow_of(syn: &Syn) -> Flow {
    let flow = flow_hash(syn.source, syn.segment);
    match take(flow, syn.segment.sequence, syn.now.slot()) {
        RELEASED => Flow::Released,
        PASSED => Flow::Passed,
        _ => Flow::Unknown,
    }
}

const UNKNOWN: u32 = 0;
const RELEASED: u32 = 1;
const PASSED: u32 = 2;

/// Returns one of the constants above. It is a global function, which the verifier checks on its own.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn take(flow: u64, sequence: u32, slot: u32) -> u32 {
    let mut known = UNKNOWN;
    for index in safe_reset::sets_of_syn(flow, sequence) {
        let Some(set) = set(index) else { return UNKNOWN };
        if known == UNKNOWN {
            known = match safe_reset::take(set, flow, sequence, slot) {
                Flow::Unknown => UNKNOWN,
                Flow::Released => RELEASED,
                Flow::Passed => PASSED,
            };
        }
    }
    known
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
    let flow = flow_hash(Source::new(segment.source), &segment);
    if let Some(set) = set(safe_reset::set_of_reset(flow, segment.sequence)) {
        // A copy of the reset releases nothing, but is not meant for the kernel either.
        safe_reset::release(set, flow, segment.sequence, Now::at(jiffies).slot());
    }
    1
}

/// Returns the hash of the client's address and the destination.
#[inline(always)]
fn flow_hash(source: Source, segment: &Segment) -> u64 {
    connection_of(source.hash, segment)
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
fn set<'a>(index: u32) -> Option<&'a mut Set> {
    let set = RELEASED_FLOWS.get_ptr_mut(index)?;
    // SAFETY: elements of an array live as long as the program, and one word is written at once: two CPUs at the same set
    // leave one flow or the other.
    Some(unsafe { &mut *set })
}

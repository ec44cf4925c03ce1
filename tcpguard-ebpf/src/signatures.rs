//! The signatures of the flood in progress, and the handshakes that are let through to refute them.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use tcpguard_common::{
    abi::{
        counters::Counter,
        event::{Event, kind},
        lease::flag,
        signature::{MAX_SIGNATURES, Tried, tried},
    },
    packet::Shape,
    tracking::handshake::Begun,
};

use crate::{accounting::counters, events, lease, source::Source, time::Now};

/// Handshakes with a signature that were let through.
#[btf_map]
static TRIED: Array<u64, { tried::ELEMENTS as usize }> = Array::new();

/// Returns whether a SYN of this shape has a signature.
#[inline(always)]
pub fn is_one_of(shape: Shape) -> bool {
    let mut index = 0;
    while index < MAX_SIGNATURES {
        if lease::signature(index).is_of(shape) {
            return true;
        }
        index += 1;
    }
    false
}

/// Notes that a SYN with a signature of a client port with this hash is let through.
#[inline(always)]
pub fn note_tried(client: u64, now: Now) {
    let tried = Tried::new(client, now.window_period());
    if let Some(place) = TRIED.get_ptr_mut(tried::index(client)) {
        // SAFETY: elements of an array live as long as the program, and one word is written at once.
        unsafe { *place = tried.0 };
    }
}

/// Tells the daemon if a completed handshake, of a client port with this hash, began with a SYN that has a signature and was let through. What was observed
/// when it began is not known where its source had no entry.
#[inline(always)]
pub fn note_completed(source: Source, client: u64, begun: Option<Begun>, now: Now) {
    if lease::flags() & flag::SIGNATURES == 0 || begun.is_some_and(|begun| !is_class_of_one(begun.class)) {
        return;
    }
    let Some(place) = TRIED.get_ptr_mut(tried::index(client)) else { return };
    // SAFETY: as above.
    if !Tried(unsafe { *place }).is_of(client, now.window_period()) {
        return;
    }
    // SAFETY: as above.
    unsafe { *place = 0 };
    counters::add(Counter::SignaturesRefuted);
    events::report(Event { kind: kind::SIGNATURE_REFUTED, reason: 0, source: source.address, half_open: 0 });
}

/// Returns whether SYNs with a signature are of this class.
#[inline(always)]
fn is_class_of_one(class: u8) -> bool {
    let mut index = 0;
    while index < MAX_SIGNATURES {
        let signature = lease::signature(index);
        if signature.mask != 0 && Shape(signature.value).class() == class {
            return true;
        }
        index += 1;
    }
    false
}

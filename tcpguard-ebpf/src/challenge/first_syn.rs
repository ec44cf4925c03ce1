//! The SYNs that came of late.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use tcpguard_common::{
    challenge::first_syn::{SLABS, Slab, position},
    hash,
};

use crate::arrival::{Arrival, connection_of};

#[btf_map]
static FIRST_SYNS: Array<Slab, { SLABS as usize }> = Array::new();

/// Whether a SYN came before, as long ago as a TCP waits. Where that cannot be told, it did.
#[inline(always)]
pub fn is_repeat(arrival: &Arrival) -> bool {
    let segment = arrival.segment;
    let hash = hash::syn(connection_of(arrival.source, segment), segment.sequence);
    let (slab, set) = position(hash);
    let Some(slab) = FIRST_SYNS.get_ptr_mut(slab) else { return true };
    // SAFETY: elements of an array live as long as the program, and a word is written at once: two CPUs at
    // the same set leave one SYN or the other.
    let set = unsafe { &mut (*slab)[set] };
    set.is_repeat(hash, arrival.now.moment())
}

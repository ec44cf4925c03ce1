//! Recent first SYNs, which tell a retransmit from a SYN that arrives for the first time.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use tcpguard_common::{
    challenge::first_syn::{SLABS, Slab, position},
    hash,
};

use crate::{lease, syn::Syn};

#[btf_map]
static FIRST_SYNS: Array<Slab, { SLABS as usize }> = Array::new();

/// Returns whether a SYN was received before, as long ago as a TCP implementation waits for its retransmit; true if that
/// cannot be determined.
#[inline(always)]
pub fn is_repeat(syn: &Syn) -> bool {
    look_up(hash::syn(syn.connection(), syn.segment.sequence), syn.now.slot()) != 0
}

/// Returns 1 if the SYN with this hash was received before, and remembers it. It is a global function, which the verifier
/// checks once for all stages that call it, and its registers are spared the program's stack.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn look_up(hash: u64, slot: u32) -> u32 {
    let (slab, set) = position(hash, lease::last_first_syn_slab());
    let Some(slab) = FIRST_SYNS.get_ptr_mut(slab) else { return 1 };
    // SAFETY: elements of an array live as long as the program, and one word is written at once: two CPUs at the same set
    // leave one SYN or the other.
    let set = unsafe { &mut (*slab)[set] };
    set.is_repeat(hash, slot).into()
}

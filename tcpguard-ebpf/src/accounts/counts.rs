//! The counters: one array of them per CPU.

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use tcpguard_common::counters::{Counter, Counts};

use crate::outcome::Outcome;

#[btf_map]
static COUNTS: PerCpuArray<Counts, 1> = PerCpuArray::new();

/// Counts the packet, and what it was.
#[inline(always)]
pub fn record_packet(outcome: Outcome) {
    if let Some(counts) = COUNTS.get_ptr_mut(0) {
        // SAFETY: the element belongs to this CPU, where nothing else runs between read and write
        // but another of our programs in an interrupt, which leaves at worst one count out.
        unsafe {
            (*counts)[Counter::Packets as usize] += 1;
            (*counts)[outcome.counter() as usize] += 1;
        }
    }
}

/// Adds one to `counter`. What happens seldom is not inlined: it would cost registers where it does not.
#[inline(always)]
pub fn add(counter: Counter) {
    if let Some(counts) = COUNTS.get_ptr_mut(0) {
        // SAFETY: as above.
        unsafe { (*counts)[counter as usize] += 1 };
    }
}

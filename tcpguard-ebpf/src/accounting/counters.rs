//! The counters: one array of them per CPU.

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use tcpguard_common::abi::counters::{Counter, Counts};

use crate::verdict::Verdict;

#[btf_map]
static COUNTS: PerCpuArray<Counts, 1> = PerCpuArray::new();

/// Counts a packet, by its verdict.
#[inline(always)]
pub fn record_packet(verdict: Verdict) {
    if let Some(counts) = COUNTS.get_ptr_mut(0) {
        // SAFETY: the element belongs to this CPU, where nothing runs between read and write except
        // one of our programs in an interrupt, which loses at most one count.
        unsafe {
            (*counts)[Counter::Packets as usize] += 1;
            (*counts)[verdict.counter() as usize] += 1;
        }
    }
}

/// Adds one to `counter`.
#[inline(always)]
pub fn add(counter: Counter) {
    if let Some(counts) = COUNTS.get_ptr_mut(0) {
        // SAFETY: as above.
        unsafe { (*counts)[counter as usize] += 1 };
    }
}

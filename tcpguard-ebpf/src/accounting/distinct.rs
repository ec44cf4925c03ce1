//! The registers that the number of distinct sources is estimated from.

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use tcpguard_common::tracking::distinct::{self, Registers};

use crate::{source::Source, time::Now};

#[btf_map]
static DISTINCT: PerCpuArray<Registers, 1> = PerCpuArray::new();

#[inline(always)]
pub fn observe(source: Source, now: Now) {
    let (register, observed) = distinct::observation(source.hash, now.second());
    if let Some(registers) = DISTINCT.get_ptr_mut(0) {
        // SAFETY: the element belongs to this CPU.
        let word = unsafe { &mut (*registers)[register] };
        if observed > *word {
            *word = observed;
        }
    }
}

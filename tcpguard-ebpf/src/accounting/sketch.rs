//! The sketch of SYNs by source, and the admission to the source table that is based on it.

use aya_ebpf::{
    btf_maps::{Array, PerCpuArray},
    macros::btf_map,
};
use tcpguard_common::tracking::{
    admission::{Admission, Allowance},
    sketch::{self, SLABS, Slab},
};

use crate::{by_cpu, settings, source::Source, time::Now};

#[btf_map]
static SKETCH: Array<Slab, SLABS> = Array::new();

#[btf_map]
static ADMISSION: PerCpuArray<Admission, 1> = PerCpuArray::new();

#[btf_map]
static ALLOWANCE: Array<Allowance, 1> = Array::new();

/// Counts a SYN; returns whether its source, which has no entry, gets one.
#[inline(always)]
pub fn count(source: Source, now: Now, is_challenged: bool) -> bool {
    let (slab, line) = sketch::position(source.hash);
    let Some(lines) = by_cpu::element(&SKETCH, slab) else { return false };
    let Some((admission, allowance)) = state() else { return false };
    // Counts of an estimate: CPUs that share the element may lose some.
    let line = &mut lines.value[line];
    let max = settings::whole_allowance();
    allowance.fill(now.epoch(), max);
    admission.count(now.epoch());
    admission.is_open_to(allowance, line.count(source.hash, now.epoch()), max, is_challenged)
}

/// Notes that a source was admitted.
#[inline(always)]
pub fn note_admission(is_challenged: bool) {
    if let Some((admission, allowance)) = state() {
        admission.give(allowance, is_challenged);
    }
}

#[inline(always)]
fn state<'a>() -> Option<(&'a mut Admission, &'a mut Allowance)> {
    let (admission, allowance) = (ADMISSION.get_ptr_mut(0)?, ALLOWANCE.get_ptr_mut(0)?);
    // SAFETY: elements of arrays live as long as the program. The first belongs to this CPU; from the
    // second, entries are taken by an atomic instruction, and two CPUs that fill it concurrently fill it
    // twice at worst.
    Some(unsafe { (&mut *admission, &mut *allowance) })
}

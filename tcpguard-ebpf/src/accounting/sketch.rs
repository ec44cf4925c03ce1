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

/// How much a source without an entry counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Rank {
    /// As much as any that is new.
    Usual,
    /// It sends more than chance explains.
    StandsOut,
}

/// Counts a SYN; returns the rank of its source, which has no entry, if it is to get one.
#[inline(always)]
pub fn count(source: Source, now: Now, is_challenged: bool) -> Option<Rank> {
    let (slab, line) = sketch::position(source.hash);
    let lines = by_cpu::element(&SKETCH, slab)?;
    let (admission, allowance) = state()?;
    // Counts of an estimate: CPUs that share the element may lose some.
    let line = &mut lines.value[line];
    let max = settings::whole_allowance();
    allowance.fill(now.epoch(), max);
    admission.count(now.epoch());
    let estimate = line.count(source.hash, now.epoch());
    if !admission.is_open_to(allowance, estimate, max, is_challenged) {
        return None;
    }
    admission.give(allowance, is_challenged);
    Some(if admission.stands_out(estimate) { Rank::StandsOut } else { Rank::Usual })
}

#[inline(always)]
fn state<'a>() -> Option<(&'a mut Admission, &'a mut Allowance)> {
    let (admission, allowance) = (ADMISSION.get_ptr_mut(0)?, ALLOWANCE.get_ptr_mut(0)?);
    // SAFETY: elements of arrays live as long as the program. The first belongs to this CPU; from the
    // second, entries are taken by an atomic instruction, and two CPUs that fill it concurrently fill it
    // twice at worst.
    Some(unsafe { (&mut *admission, &mut *allowance) })
}

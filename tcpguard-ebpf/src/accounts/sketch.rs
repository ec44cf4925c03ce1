//! The sketch of SYNs by source, and the admission to the source table that it decides.

use aya_ebpf::{
    btf_maps::{Array, PerCpuArray},
    macros::btf_map,
};
use tcpguard_common::{
    admission::{Admission, Allowance},
    sketch::{self, SLABS, Slab},
};

use crate::{arrival::Source, settings, time::Now};

#[btf_map]
static SKETCH: PerCpuArray<Slab, SLABS> = PerCpuArray::new();

#[btf_map]
static ADMISSION: PerCpuArray<Admission, 1> = PerCpuArray::new();

#[btf_map]
static ALLOWANCE: Array<Allowance, 1> = Array::new();

/// Counts a SYN; tells whether its source may be given an entry now, if it has none.
#[inline(always)]
pub fn count(source: Source, now: Now, is_challenged: bool) -> bool {
    let (slab, line) = sketch::position(source.hash);
    let Some(lines) = SKETCH.get_ptr_mut(slab) else { return false };
    let Some((admission, allowance)) = door() else { return false };
    // SAFETY: the element belongs to this CPU; another of our programs in an interrupt may at worst
    // spoil one count of an estimate.
    let line = unsafe { &mut (*lines)[line] };
    let most = settings::whole_allowance();
    allowance.fill(now.epoch(), most);
    admission.count(now.epoch());
    admission.is_open_to(allowance, line.count(source.hash, now.epoch()), most, is_challenged)
}

/// Notes that an entry was given.
#[inline(always)]
pub fn note_admission(is_challenged: bool) {
    if let Some((admission, allowance)) = door() {
        admission.give(allowance, is_challenged);
    }
}

#[inline(always)]
fn door<'a>() -> Option<(&'a mut Admission, &'a mut Allowance)> {
    let (admission, allowance) = (ADMISSION.get_ptr_mut(0)?, ALLOWANCE.get_ptr_mut(0)?);
    // SAFETY: elements of arrays live as long as the program. The first belongs to this CPU; of the
    // second entries are taken by an atomic instruction, and two CPUs that fill it at the same time may
    // at worst fill it twice.
    Some(unsafe { (&mut *admission, &mut *allowance) })
}

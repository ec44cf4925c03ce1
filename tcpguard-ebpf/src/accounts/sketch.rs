//! The sketch of SYNs by source, and the admission to the source table that it decides.

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use tcpguard_common::{
    admission::Admission,
    sketch::{self, SLABS, Slab},
};

use super::Source;
use crate::{settings, time::Now};

#[btf_map]
static SKETCH: PerCpuArray<Slab, SLABS> = PerCpuArray::new();

#[btf_map]
static ADMISSION: PerCpuArray<Admission, 1> = PerCpuArray::new();

/// Counts a SYN; tells whether its source may be given an entry now, if it has none.
#[inline(always)]
pub fn count(source: Source, now: Now) -> bool {
    let (slab, line) = sketch::position(source.hash);
    let (Some(lines), Some(admission)) = (SKETCH.get_ptr_mut(slab), ADMISSION.get_ptr_mut(0)) else { return false };
    // SAFETY: both elements belong to this CPU; another of our programs in an interrupt may at
    // worst spoil one count of an estimate.
    let (line, admission) = unsafe { (&mut (*lines)[line], &mut *admission) };
    let most = settings::admissions_per_epoch();
    admission.count(now.epoch(), most);
    admission.is_open_to(line.count(source.hash, now.epoch()), most)
}

/// Notes that an entry was given.
#[inline(always)]
pub fn note_admission() {
    if let Some(admission) = ADMISSION.get_ptr_mut(0) {
        // SAFETY: as above.
        unsafe { (*admission).give() };
    }
}

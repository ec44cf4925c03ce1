//! The source table.

use aya_ebpf::{bindings::BPF_NOEXIST, btf_maps::LruHashMap, macros::btf_map};
use tcpguard_common::{address::Address, atomic, source::SourceEntry};

use crate::{arrival::Source, control, time::Now};

/// The daemon sets the number of entries (`limits.max_sources`) before loading.
#[btf_map]
static SOURCES: LruHashMap<Address, SourceEntry, 262_144> = LruHashMap::new();

#[inline(always)]
pub fn find<'a>(source: Source) -> Option<&'a mut SourceEntry> {
    let entry = SOURCES.get_ptr_mut(source.address)?;
    // SAFETY: the entry stays readable and writable until the program ends, even if another CPU
    // evicts it meanwhile: the count is then lost with it. Counts that CPUs share are changed by
    // atomic instructions only.
    Some(unsafe { &mut *entry })
}

/// What a new entry begins as. It is taken from here since the stack has no room to make one on.
static EMPTY: SourceEntry = SourceEntry::EMPTY;

/// Makes an entry that begins now. False where another CPU was faster, or there is no memory.
#[expect(clippy::needless_borrows_for_generic_args, reason = "a copy would stand on the stack")]
#[inline(always)]
pub fn insert(source: Source, now: Now) -> bool {
    let is_new = SOURCES.insert(source.address, &EMPTY, BPF_NOEXIST.into()).is_ok();
    if is_new && let Some(entry) = find(source) {
        entry.begin(now.jiffies, control::full_bucket());
    }
    is_new
}

/// Adds one to a count that other CPUs may be adding to as well.
#[inline(always)]
pub fn count(counter: &mut u64) {
    atomic::add(counter, 1);
}

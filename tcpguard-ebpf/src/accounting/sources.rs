//! The source table.

use aya_ebpf::{bindings::BPF_NOEXIST, btf_maps::LruHashMap, macros::btf_map};
use tcpguard_common::{address::Address, atomic, tracking::source::SourceEntry};

use super::filter;
use crate::{lease, source::Source, time::Now};

/// The daemon sets the number of entries (`limits.max_sources`) before loading.
#[btf_map]
static SOURCES: LruHashMap<Address, SourceEntry, 262_144> = LruHashMap::new();

/// Returns the entry of a source. The table is looked up only if the filter tells that the source may have one.
#[inline(always)]
pub fn find_known<'a>(source: Source) -> Option<&'a mut SourceEntry> {
    if filter::may_contain(source) { find(source) } else { None }
}

/// Returns the entry of a source, without asking the filter.
#[inline(always)]
pub fn find<'a>(source: Source) -> Option<&'a mut SourceEntry> {
    let entry = SOURCES.get_ptr_mut(source.address)?;
    // SAFETY: the entry stays readable and writable until the program ends, even if another CPU
    // evicts it meanwhile: the count is then lost with it. Counts that CPUs share are changed by
    // atomic instructions only.
    Some(unsafe { &mut *entry })
}

/// The initial value of an entry. The stack has no room to build one.
static EMPTY: SourceEntry = SourceEntry::EMPTY;

/// Creates an entry. Returns false if another CPU was faster or the table has no memory.
#[expect(clippy::needless_borrows_for_generic_args, reason = "a copy would stand on the stack")]
#[inline(always)]
pub fn insert(source: Source, now: Now) -> bool {
    let is_new = SOURCES.insert(source.address, &EMPTY, BPF_NOEXIST.into()).is_ok();
    if is_new && let Some(entry) = find(source) {
        entry.begin(now.jiffies, lease::full_bucket());
    }
    is_new
}

/// Adds one to a count that other CPUs may add to concurrently.
#[inline(always)]
pub fn count(counter: &mut u64) {
    atomic::add(counter, 1);
}

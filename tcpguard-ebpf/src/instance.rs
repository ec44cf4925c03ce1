//! Whose word the maps are that one datapath takes over from another.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use tcpguard_common::instance::Instance;

use crate::settings;

#[btf_map]
static INSTANCE: Array<Instance, 1> = Array::new();

/// Whether this is the datapath whose tracepoints count. While one takes over from another both are attached, and the
/// daemon says, with one write, from when on it is the other's turn.
#[inline(always)]
pub fn is_ours() -> bool {
    INSTANCE.get(0).is_some_and(|instance| {
        // SAFETY: an element of an array lives as long as the program; the daemon writes it a word at a time.
        let generation = unsafe { core::ptr::read_volatile(&raw const instance.generation) };
        generation == settings::generation()
    })
}

//! Which datapath the maps belong to, while one datapath takes over from another.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use tcpguard_common::abi::takeover::Instance;

use crate::settings;

#[btf_map]
static INSTANCE: Array<Instance, 1> = Array::new();

/// Returns whether the tracepoints of this datapath count. During a takeover those of two are attached; the daemon hands
/// over from one to the other with a single write.
#[inline(always)]
pub fn owns_maps() -> bool {
    INSTANCE.get(0).is_some_and(|instance| {
        // SAFETY: an element of an array lives as long as the program; the daemon writes it one word at a time.
        let generation = unsafe { core::ptr::read_volatile(&raw const instance.generation) };
        generation == settings::generation()
    })
}

//! The interfaces whose handshakes count although nothing is known of the source.

use aya_ebpf::{btf_maps::HashMap, macros::btf_map};

/// Kept by the daemon: the guarded interfaces and those stacked on them.
#[btf_map]
static GUARDED_INTERFACES: HashMap<u32, u32, 256> = HashMap::new();

#[inline(always)]
pub fn contains(interface: u32) -> bool {
    GUARDED_INTERFACES.get_ptr(interface).is_some()
}

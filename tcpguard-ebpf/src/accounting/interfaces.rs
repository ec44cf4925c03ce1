//! The interfaces whose handshakes count even if nothing is known of the source.

use aya_ebpf::{btf_maps::HashMap, macros::btf_map};

/// Written by the daemon: the guarded interfaces, and the interfaces stacked on them.
#[btf_map]
static GUARDED_INTERFACES: HashMap<u32, u32, 256> = HashMap::new();

#[inline(always)]
pub fn contains(interface: u32) -> bool {
    GUARDED_INTERFACES.get_ptr(interface).is_some()
}

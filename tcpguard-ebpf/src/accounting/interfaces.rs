//! The interfaces whose handshakes count even if nothing is known of the source.

use aya_ebpf::{btf_maps::HashMap, macros::btf_map};
use tcpguard_common::abi::guarded::GUARDED;

/// Written by the daemon: the guarded interfaces, and the interfaces stacked on them ([`tcpguard_common::abi::guarded`]).
#[btf_map]
static GUARDED_INTERFACES: HashMap<u32, u32, 256> = HashMap::new();

#[inline(always)]
pub fn contains(interface: u32) -> bool {
    GUARDED_INTERFACES.get_ptr(interface).is_some()
}

/// Returns whether an interface itself is guarded.
#[inline(always)]
pub fn is_guarded(interface: u32) -> bool {
    // SAFETY: the value is one word, which is read at once.
    GUARDED_INTERFACES.get_ptr(interface).is_some_and(|kind| unsafe { *kind } == GUARDED)
}

//! The interfaces whose handshakes count even if nothing is known of the source.

use aya_ebpf::{btf_maps::HashMap, macros::btf_map};
use tcpguard_common::abi::guarded::{GUARDED, INNER};

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
    GUARDED_INTERFACES.get_ptr(interface).is_some_and(|kind| unsafe { *kind } & GUARDED != 0)
}

/// Returns whether packets that an interface received came from the clients' side: through a guarded one, or one stacked on it,
/// that does not lead to servers.
#[inline(always)]
pub fn is_from_clients(received_on: u32) -> bool {
    // SAFETY: as above.
    GUARDED_INTERFACES.get_ptr(received_on).is_some_and(|kind| unsafe { *kind } & INNER == 0)
}

//! The host's own addresses, and which of its ports have a listener.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use tcpguard_common::{
    abi::{
        listening::{CLOSED, LISTENING as OPEN},
        local_addresses,
    },
    address::Address,
};

/// Written by the daemon.
#[btf_map]
static LOCAL_ADDRESSES: Array<local_addresses::Set, { local_addresses::SETS }> = Array::new();

/// The state of each port: written by the daemon, and by the tracepoint as soon as a listener opens or closes.
#[btf_map]
static LISTENING: Array<u64, 65_536> = Array::new();

/// Returns whether the address is one of the host's own; false where these are not known.
#[inline(always)]
pub fn has_address(address: Address) -> bool {
    LOCAL_ADDRESSES.get(local_addresses::set(address)).is_some_and(|set| local_addresses::contains(set, address))
}

/// Returns whether the port has a listener; true if that cannot be determined.
#[inline(always)]
pub fn is_listening(port: u16) -> bool {
    LISTENING.get(port.into()).is_none_or(|state| *state == OPEN)
}

/// A listener of this namespace opened or closed. Where other listeners share the port, the daemon corrects the state
/// within half a second.
#[inline(always)]
pub fn note_listener(port: u16, is_open: bool) {
    if let Some(state) = LISTENING.get_ptr_mut(port.into()) {
        let next = if is_open { OPEN } else { CLOSED };
        // SAFETY: elements of an array live as long as the program, and one word is written at once.
        unsafe { *state = next };
    }
}

//! The host's own addresses, and which of its ports have a listener.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use tcpguard_common::{
    abi::{
        listening::{LISTENING as OPEN, closed_at, is_closed_for_a_while},
        local_addresses,
    },
    address::Address,
};

use crate::{settings, time};

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

/// Returns whether the port's listener closed recently.
#[inline(always)]
pub fn closed_recently(port: u16, jiffies: u64) -> bool {
    LISTENING.get(port.into()).is_some_and(|state| is_closed_for_a_while(*state, jiffies))
}

/// A listener of this namespace opened or closed. Where other listeners share the port, the daemon corrects the state
/// within half a second.
#[inline(always)]
pub fn note_listener(port: u16, is_open: bool) {
    if let Some(state) = LISTENING.get_ptr_mut(port.into()) {
        let next = if is_open { OPEN } else { closed_at(time::jiffies(), settings::ticks_per_second()) };
        // SAFETY: elements of an array live as long as the program, and one word is written at once.
        unsafe { *state = next };
    }
}

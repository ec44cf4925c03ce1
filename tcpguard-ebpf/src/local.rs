//! The host's own addresses, and which of its ports have a listener.

use aya_ebpf::{
    btf_maps::{Array, LpmTrie, lpm_trie::Key},
    macros::btf_map,
};
use tcpguard_common::{
    abi::{
        lease::flag,
        listening::{CLOSED, LISTENING as OPEN, REDIRECTED},
        local_addresses,
    },
    address::Address,
};

use crate::lease;

/// Written by the daemon.
#[btf_map]
static LOCAL_ADDRESSES: Array<local_addresses::Set, { local_addresses::SETS }> = Array::new();

/// The state of each port: written by the daemon, and by the tracepoint as soon as a listener opens or closes.
#[btf_map]
static LISTENING: Array<u64, 65_536> = Array::new();

/// Networks of which the host accepts every address. Written by the daemon.
#[btf_map]
static LOCAL_NETWORKS: LpmTrie<Address, u32, { local_addresses::MAX_NETWORKS as usize }> = LpmTrie::new();

/// Returns whether the address is one of the host's own; false where these are not known.
#[inline(always)]
pub fn has_address(address: Address) -> bool {
    let (first, second) = local_addresses::choices(address);
    let Some(set) = LOCAL_ADDRESSES.get(first) else { return false };
    if local_addresses::contains(set, address) {
        return true;
    }
    if local_addresses::is_full(set)
        && LOCAL_ADDRESSES.get(second).is_some_and(|set| local_addresses::contains(set, address))
    {
        return true;
    }
    let [high, low] = address.words();
    lease::flags() & flag::LOCAL_NETWORKS != 0 && is_in_local_network(high, low) != 0
}

/// Returns 1 if the address that consists of these two words belongs to a network of which the host accepts every address. It
/// is not inlined: most hosts have none, and the path without them would pay for its stack.
#[inline(never)]
fn is_in_local_network(high: u64, low: u64) -> u32 {
    LOCAL_NETWORKS.get(&Key::new(128, Address::from_words([high, low]))).is_some().into()
}

/// Returns whether the port has a listener; true if that cannot be determined.
#[inline(always)]
pub fn is_listening(port: u16) -> bool {
    LISTENING.get(port.into()).is_none_or(|state| *state == OPEN)
}

/// Returns whether SYN-ACKs are sent from a port that has no listener.
#[inline(always)]
pub fn is_redirected(port: u16) -> bool {
    LISTENING.get(port.into()).is_some_and(|state| *state == REDIRECTED)
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

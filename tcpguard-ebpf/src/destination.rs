//! Whom a SYN is for: whether the handshake it asks for can be judged here.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use tcpguard_common::{
    address::Address,
    control::flag,
    listening::{LISTENING as OPEN, closed_at, is_closed_for_a_while},
    local,
};

use crate::{arrival::Arrival, outcome::Outcome, settings, time};

/// The host's own addresses, kept by the daemon.
#[btf_map]
static LOCAL_ADDRESSES: Array<local::Set, { local::SETS }> = Array::new();

/// Which ports have a listener: kept by the daemon, and by the tracepoint as soon as one opens or closes.
#[btf_map]
static LISTENING: Array<u64, 65_536> = Array::new();

/// The outcome of a SYN whose handshake is not judged here; `None` where it is.
#[inline(always)]
pub fn exemption(arrival: &Arrival) -> Option<Outcome> {
    if arrival.leave.has(flag::LOCAL_KNOWN) && !is_local(arrival.segment.destination) {
        return Some(Outcome::SYN_FORWARDED);
    }
    let state = LISTENING.get(arrival.segment.destination_port.into())?;
    is_closed_for_a_while(*state, arrival.now.jiffies).then_some(Outcome::SYN_CLOSED)
}

/// Whether it is one of the host's own addresses; false where they are not known.
#[inline(always)]
pub fn is_local(destination: Address) -> bool {
    LOCAL_ADDRESSES.get(local::set(destination)).is_some_and(|set| local::contains(set, destination))
}

/// A listener of this namespace opened or closed. Where others listen on the same port, the daemon puts
/// that right within half a second.
#[inline(always)]
pub fn note_listener(port: u16, is_open: bool) {
    if let Some(state) = LISTENING.get_ptr_mut(port.into()) {
        let next = if is_open { OPEN } else { closed_at(time::jiffies(), settings::ticks_per_second()) };
        // SAFETY: elements of an array live as long as the program, and a word is written at once.
        unsafe { *state = next };
    }
}

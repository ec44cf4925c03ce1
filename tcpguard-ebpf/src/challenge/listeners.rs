//! Which SYNs may be challenged: those for the host itself, to a listener that accepts them.

use aya_ebpf::{
    btf_maps::{Array, HashMap},
    macros::btf_map,
};
use tcpguard_common::{
    abi::{
        event::{Event, kind},
        place::PLACES,
        port::{Endpoint, PortChallenge, port_flag},
    },
    address::Address,
    atomic,
    packet::Segment,
};

use crate::{events, local};

/// How SYNs to each place are challenged. Written by the daemon.
#[btf_map]
static CHALLENGES: Array<PortChallenge, PLACES> = Array::new();

/// The number of changes to the listeners of each port.
#[btf_map]
static LISTENER_CHANGES: Array<u64, 65_536> = Array::new();

/// The listeners that do not accept connections to every address of the host.
#[btf_map]
static ENDPOINTS: HashMap<Endpoint, u32, 4096> = HashMap::new();

/// Returns how SYNs to a place are challenged.
#[inline(always)]
pub fn challenge_of(place: u32) -> Option<&'static PortChallenge> {
    CHALLENGES.get(place)
}

/// Returns whether a SYN that may be answered may be answered with a cookie: every listener of its port was prepared for
/// cookies, and one accepts connections to its address.
#[inline(always)]
pub fn takes_cookies(challenge: &PortChallenge, segment: &Segment) -> bool {
    let changes = LISTENER_CHANGES.get(segment.destination_port.into());
    changes.is_some_and(|changes| *changes == challenge.changes) && accepts(challenge, segment)
}

/// Returns whether a segment is for the host itself and a listener accepts connections to its address.
#[inline(always)]
pub fn has_listener(challenge: &PortChallenge, segment: &Segment) -> bool {
    is_for_host(segment) && segment.source.may_be_answered() && accepts(challenge, segment)
}

#[inline(always)]
fn accepts(challenge: &PortChallenge, segment: &Segment) -> bool {
    let any = if segment.source.is_ipv4() { port_flag::ANY_IPV4 } else { port_flag::ANY_IPV6 };
    challenge.has(any)
        || challenge.has(port_flag::SOME_ADDRESSES) && is_endpoint(segment.destination, segment.destination_port)
}

/// Returns whether the datapath may answer a SYN in the name of its destination, which is known to be this host or a server
/// behind it.
#[inline(always)]
pub fn may_be_answered(syn: &Segment) -> bool {
    syn.source.may_be_answered() && identifies_hosts(syn)
}

/// Returns whether a segment is for an address of the host's own, from another host.
#[inline(always)]
pub fn is_for_host(segment: &Segment) -> bool {
    local::has_address(segment.destination) && identifies_hosts(segment)
}

/// Returns whether the addresses of a segment differ, and neither is link-local: these identify a host only together with an
/// interface.
#[inline(always)]
fn identifies_hosts(segment: &Segment) -> bool {
    let (source, destination) = (segment.source, segment.destination);
    !destination.is_link_local() && !source.is_link_local() && source != destination
}

#[inline(always)]
fn is_endpoint(address: Address, port: u16) -> bool {
    ENDPOINTS.get_ptr(Endpoint { address, port: port.into() }).is_some()
}

/// A listener of this namespace opened or closed: what the daemon wrote for its port no longer applies.
#[inline(always)]
pub fn note_listener(port: u16, is_open: bool) {
    if let Some(changes) = LISTENER_CHANGES.get_ptr_mut(port.into()) {
        // SAFETY: elements of an array live as long as the program, and the word is changed atomically.
        atomic::add(unsafe { &mut *changes }, 1);
    }
    local::note_listener(port, is_open);
    events::report(Event {
        kind: kind::LISTENERS_CHANGED,
        reason: port.into(),
        source: Address::default(),
        half_open: 0,
    });
}

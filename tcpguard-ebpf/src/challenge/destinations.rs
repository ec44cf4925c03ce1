//! Which SYNs may be challenged: those for the host itself, and for a listener that takes them.

use aya_ebpf::{
    btf_maps::{Array, HashMap},
    macros::btf_map,
};
use tcpguard_common::{
    address::Address,
    atomic,
    challenge::{Endpoint, PortChallenge, port_flag},
    event::{Event, kind},
    packet::Segment,
};

use crate::{destination, events};

/// What holds for each port, by the daemon's word.
#[btf_map]
static CHALLENGES: Array<PortChallenge, 65_536> = Array::new();

/// How often the listeners of each port changed.
#[btf_map]
static LISTENER_CHANGES: Array<u64, 65_536> = Array::new();

/// Where listeners are that do not take what comes to any address.
#[btf_map]
static ENDPOINTS: HashMap<Endpoint, u32, 4096> = HashMap::new();

/// What holds for a port.
#[inline(always)]
pub fn terms_of(port: u16) -> Option<&'static PortChallenge> {
    CHALLENGES.get(port.into())
}

/// Whether a SYN may be answered with a cookie: every listener there is was made ready for it.
#[inline(always)]
pub fn takes_cookies(terms: &PortChallenge, segment: &Segment) -> bool {
    let changes = LISTENER_CHANGES.get(segment.destination_port.into());
    changes.is_some_and(|changes| *changes == terms.changes) && has_listener(terms, segment)
}

/// Whether a segment is for the host itself, and a listener takes what comes to its address. Addresses that
/// mean something on one link only are left out: who has them is told by interface.
#[inline(always)]
pub fn has_listener(terms: &PortChallenge, segment: &Segment) -> bool {
    let (source, destination) = (segment.source, segment.destination);
    let any = if source.is_ipv4() { port_flag::ANY_IPV4 } else { port_flag::ANY_IPV6 };
    destination::is_local(destination)
        && !destination.is_link_local()
        && !source.is_link_local()
        && source.may_be_answered()
        && source != destination
        && (terms.has(any)
            || terms.has(port_flag::SOME_ADDRESSES) && is_endpoint(destination, segment.destination_port))
}

#[inline(always)]
fn is_endpoint(address: Address, port: u16) -> bool {
    ENDPOINTS.get_ptr(Endpoint { address, port: port.into() }).is_some()
}

/// A listener of this namespace opened or closed: the terms of its port do not hold any more.
#[inline(always)]
pub fn note_listener(port: u16, is_open: bool) {
    if let Some(changes) = LISTENER_CHANGES.get_ptr_mut(port.into()) {
        // SAFETY: elements of an array live as long as the program, and it is added to atomically.
        atomic::add(unsafe { &mut *changes }, 1);
    }
    destination::note_listener(port, is_open);
    events::report(Event {
        kind: kind::LISTENERS_CHANGED,
        reason: port.into(),
        source: Address::default(),
        half_open: 0,
    });
}

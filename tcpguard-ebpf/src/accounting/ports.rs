//! Counts by place ([`tcpguard_common::abi::place`]): SYNs, for every place and CPU; and the outcome of handshakes. There is an
//! element for each place, so that nothing an attacker sends can use them up.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use tcpguard_common::{
    abi::counters::Counter,
    abi::port::{
        HandshakeSlab, PORT_SLABS, PortHandshakes, PortMark, PortSlab, PortSyns, place_in_slabs, with_network,
    },
    atomic,
};

use super::counters;
use crate::{by_cpu, kernel::handshake::Handshake, lease};

#[btf_map]
static SYN_BY_PORT: Array<PortSlab, PORT_SLABS> = Array::new();

#[btf_map]
static HANDSHAKES_BY_PORT: Array<HandshakeSlab, PORT_SLABS> = Array::new();

/// What the daemon has to read.
#[btf_map]
static PORT_MARKS: Array<PortMark, PORT_SLABS> = Array::new();

/// Minus one, as a wrapping amount.
const ONE_LESS: u64 = u64::MAX;

/// Counts a SYN that began a handshake. Each SYN is counted once, where its path through the program ends.
#[inline(always)]
pub fn count_syn(place: u32, is_challenged: bool) {
    count(place, PortSyns { syn: 1, challenged: is_challenged.into(), ..PortSyns::NONE });
}

/// Counts a retransmitted SYN.
#[inline(always)]
pub fn count_repeated(place: u32, is_challenged: bool) {
    count(place, PortSyns { syn: 1, not_begun: 1, challenged: is_challenged.into(), ..PortSyns::NONE });
}

/// Counts a SYN that began no handshake to be judged; `is_restrained` if it was dropped because of a judgement.
#[inline(always)]
pub fn count_not_begun(place: u32, is_restrained: bool) {
    count(place, PortSyns { syn: 1, not_begun: 1, restrained: is_restrained.into(), ..PortSyns::NONE });
}

/// Counts a SYN that begins a handshake after its client was challenged by reset or retransmit. It is a global function, which
/// the verifier checks on its own.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn came_back(place: u32) -> u32 {
    count(place, PortSyns { restrained: ONE_LESS, ..PortSyns::NONE });
    counters::add(Counter::SynCameBack);
    0
}

/// Counts a SYN of an unproven source in this slot; returns true if this CPU has a portion to add to the sum of all CPUs.
#[inline(always)]
pub fn is_portion_full(place: u32, slot: u32) -> bool {
    let (slab, index) = place_in_slabs(place);
    // The daemon does not read the load: the slab is not marked for it. CPUs that share the element may lose some.
    by_cpu::element(&SYN_BY_PORT, slab as u32).is_some_and(|element| element.value[index].load.count(slot))
}

/// Adds to the counts of a place.
#[inline(always)]
fn count(place: u32, counts: PortSyns) {
    let (slab, index) = place_in_slabs(place);
    let Some(element) = by_cpu::element(&SYN_BY_PORT, slab as u32) else { return };
    let counted = &mut element.value[index];
    if element.is_shared {
        atomic::add(&mut counted.syn, counts.syn);
        atomic::add(&mut counted.not_begun, counts.not_begun);
        atomic::add(&mut counted.restrained, counts.restrained);
        atomic::add(&mut counted.challenged, counts.challenged);
    } else {
        counted.syn += counts.syn;
        counted.not_begun += counts.not_begun;
        counted.restrained = counted.restrained.wrapping_add(counts.restrained);
        counted.challenged += counts.challenged;
    }
    if let Some(marks) = marks(slab) {
        mark(&mut marks.syn);
    }
}

#[inline(always)]
fn marks<'a>(slab: usize) -> Option<&'a mut PortMark> {
    let marks = PORT_MARKS.get_ptr_mut(slab as u32)?;
    // SAFETY: elements of an array live as long as the program; each word is written at once.
    Some(unsafe { &mut *marks })
}

/// Notes that a slab has changed. All CPUs share the mark: it is written only once between two ticks.
#[inline(always)]
fn mark(mark: &mut u32) {
    let tick = lease::wake().tick;
    if *mark != tick {
        *mark = tick;
    }
}

/// Counts a completed handshake; `proves` if its source was not proven before.
#[inline(always)]
pub fn count_completed(handshake: &Handshake, proves: bool) {
    if let Some(handshakes) = handshakes(handshake.local_port.into()) {
        atomic::add(&mut handshakes.completed, 1);
        if handshake.is_in_our_namespace {
            atomic::add(&mut handshakes.proved, proves.into());
            let here = if handshake.source.is_ipv4() { &mut handshakes.here_ipv4 } else { &mut handshakes.here_ipv6 };
            atomic::add(here, 1);
        }
    }
}

/// Counts a handshake that completed behind this host; `proves` if its source was not proven before.
#[inline(always)]
pub fn count_completed_behind(place: u32, proves: bool) {
    if let Some(handshakes) = handshakes(place) {
        atomic::add(&mut handshakes.completed, 1);
        atomic::add(&mut handshakes.proved, proves.into());
    }
}

/// Counts a SYN-ACK of a server behind this host.
#[inline(always)]
pub fn count_replied(place: u32) {
    if let Some(handshakes) = handshakes(place) {
        atomic::add(&mut handshakes.replied, 1);
    }
}

/// Counts a handshake that ended with a segment that acknowledges a SYN-ACK unseen.
#[inline(always)]
pub fn count_one_way(place: u32) {
    if let Some(handshakes) = handshakes(place) {
        atomic::add(&mut handshakes.one_way, 1);
    }
}

/// Counts a valid cookie that was returned from a network with this hash.
#[inline(always)]
pub fn count_returned(place: u32, is_ipv4: bool, network: u64) {
    let Some(handshakes) = handshakes(place) else { return };
    let returned = if is_ipv4 { &mut handshakes.returned_ipv4 } else { &mut handshakes.returned_ipv6 };
    atomic::add(returned, 1);
    // Another CPU may add a network at the same time, and one of the two be lost; the count stays about right.
    if let Some(networks) = with_network(handshakes.last_networks, network) {
        handshakes.last_networks = networks;
        atomic::add(&mut handshakes.returned_networks, 1);
    }
}

#[inline(always)]
pub fn count_reset(place: u32) {
    if let Some(handshakes) = handshakes(place) {
        atomic::add(&mut handshakes.reset, 1);
    }
}

/// Counts a handshake that was refused, or reset by its client, before its server behind this host answered.
#[inline(always)]
pub fn count_refused(place: u32) {
    if let Some(handshakes) = handshakes(place) {
        atomic::add(&mut handshakes.refused, 1);
    }
}

#[inline(always)]
pub fn count_retried(place: u32) {
    if let Some(handshakes) = handshakes(place) {
        atomic::add(&mut handshakes.retried, 1);
    }
}

#[inline(always)]
fn handshakes<'a>(place: u32) -> Option<&'a mut PortHandshakes> {
    let (slab, index) = place_in_slabs(place);
    let found = HANDSHAKES_BY_PORT.get_ptr_mut(slab as u32)?;
    if let Some(marks) = marks(slab) {
        mark(&mut marks.handshakes);
    }
    // SAFETY: elements of an array live as long as the program; counts are changed atomically.
    Some(unsafe { &mut (*found)[index] })
}

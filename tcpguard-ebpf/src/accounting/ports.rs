//! Counts by port: SYNs by destination port, for every port and CPU; and the outcome of handshakes, by local port. There is
//! an element for each port, so that nothing an attacker sends can use them up.

use aya_ebpf::{
    btf_maps::{Array, PerCpuArray},
    macros::btf_map,
};
use tcpguard_common::{
    abi::port::{PORT_SLABS, PORTS_PER_SLAB, PortHandshakes, PortSet, PortSlab, PortSyns, place_in_set, with_network},
    atomic,
};

use crate::kernel::handshake::Handshake;

#[btf_map]
static SYN_BY_PORT: PerCpuArray<PortSlab, PORT_SLABS> = PerCpuArray::new();

#[btf_map]
static HANDSHAKES_BY_PORT: Array<PortHandshakes, 65_536> = Array::new();

/// The ports that the daemon has to look up.
#[btf_map]
static PORTS_IN_USE: Array<PortSet, 1> = Array::new();

/// Counts a SYN that began a handshake. Each SYN is counted once, where its path through the program ends.
#[inline(always)]
pub fn count_syn(port: u16, is_challenged: bool) {
    if let Some(counts) = counts(port) {
        counts.syn += 1;
        counts.challenged += u64::from(is_challenged);
    }
}

/// Counts a retransmitted SYN.
#[inline(always)]
pub fn count_repeated(port: u16, is_challenged: bool) {
    if let Some(counts) = counts(port) {
        counts.syn += 1;
        counts.not_begun += 1;
        counts.challenged += u64::from(is_challenged);
    }
}

/// Counts a SYN that began no handshake to be judged; `is_restrained` if it was dropped because of a judgement.
#[inline(always)]
pub fn count_not_begun(port: u16, is_restrained: bool) {
    if let Some(counts) = counts(port) {
        counts.syn += 1;
        counts.not_begun += 1;
        counts.restrained += u64::from(is_restrained);
    }
}

/// Counts a SYN of an unproven source in this slot; returns true if this CPU has a portion to add to the sum of all CPUs.
#[inline(always)]
pub fn is_portion_full(port: u16, slot: u32) -> bool {
    counts(port).is_some_and(|counts| counts.load.count(slot))
}

#[inline(always)]
fn counts<'a>(port: u16) -> Option<&'a mut PortSyns> {
    let port = port as usize;
    let slab = SYN_BY_PORT.get_ptr_mut((port / PORTS_PER_SLAB) as u32)?;
    // SAFETY: the element belongs to this CPU.
    Some(unsafe { &mut (*slab)[port % PORTS_PER_SLAB] })
}

/// Counts a completed handshake; `proves` if its source was not proven before.
#[inline(always)]
pub fn count_completed(handshake: &Handshake, proves: bool) {
    if let Some(handshakes) = handshakes(handshake.local_port) {
        atomic::add(&mut handshakes.completed, 1);
        if handshake.is_in_our_namespace {
            atomic::add(&mut handshakes.proved, proves.into());
            let here = if handshake.source.is_ipv4() { &mut handshakes.here_ipv4 } else { &mut handshakes.here_ipv6 };
            atomic::add(here, 1);
        }
    }
}

/// Counts a valid cookie that was returned from a network with this hash.
#[inline(always)]
pub fn count_returned(port: u16, is_ipv4: bool, network: u64) {
    let Some(handshakes) = handshakes(port) else { return };
    let returned = if is_ipv4 { &mut handshakes.returned_ipv4 } else { &mut handshakes.returned_ipv6 };
    atomic::add(returned, 1);
    // Another CPU may add a network at the same time, and one of the two be lost; the count stays about right.
    if let Some(networks) = with_network(handshakes.last_networks, network) {
        handshakes.last_networks = networks;
        atomic::add(&mut handshakes.returned_networks, 1);
    }
}

#[inline(always)]
pub fn count_reset(port: u16) {
    if let Some(handshakes) = handshakes(port) {
        atomic::add(&mut handshakes.reset, 1);
    }
}

#[inline(always)]
pub fn count_retried(port: u16) {
    if let Some(handshakes) = handshakes(port) {
        atomic::add(&mut handshakes.retried, 1);
    }
}

#[inline(always)]
fn handshakes<'a>(port: u16) -> Option<&'a mut PortHandshakes> {
    let found = HANDSHAKES_BY_PORT.get_ptr_mut(port.into())?;
    let in_use = PORTS_IN_USE.get_ptr_mut(0)?;
    let (word, bit) = place_in_set(port);
    // SAFETY: elements of an array live as long as the program; counts and bits are changed atomically.
    unsafe {
        let word = &mut (*in_use)[word];
        if *word & bit == 0 {
            atomic::set_bits(word, bit);
        }
        Some(&mut *found)
    }
}

//! The accounts of prefixes.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use tcpguard_common::{
    address::Address,
    hash,
    tracking::prefix::{self, PrefixCell, SLABS, Slab},
};

use crate::{by_cpu, settings, source::Source, time::Now};

#[btf_map]
static PREFIXES: Array<Slab, SLABS> = Array::new();

#[inline(always)]
pub fn count_syn(source: Source, now: Now) {
    let network = network_of(source);
    if let Some(cell) = cell(network) {
        cell.count_syn(network, now.jiffies, now.epoch());
    }
}

/// Counts a handshake that was completed or reset.
#[inline(always)]
pub fn count_end(source: Source, now: Now) {
    let network = network_of(source);
    if let Some(cell) = cell(network) {
        cell.count_end(network, now.jiffies, now.epoch());
    }
}

/// Returns the hash of the source's network.
#[inline(always)]
pub fn network_hash(source: Source) -> u64 {
    hash::address(settings::hash_key(), network_of(source))
}

#[inline(always)]
fn network_of(source: Source) -> Address {
    settings::network_of(source.address)
}

#[inline(always)]
fn cell<'a>(network: Address) -> Option<&'a mut PrefixCell> {
    let (slab, cell) = prefix::position(hash::address(settings::hash_key(), network));
    // CPUs that share the element may lose some counts.
    Some(&mut by_cpu::element(&PREFIXES, slab)?.value[cell])
}

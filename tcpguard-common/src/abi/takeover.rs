//! The state that one daemon hands over to the next: the maps that stay in use across a takeover, and which
//! datapath owns them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::abi::names::map;

/// The parameters of the maps that are carried over, stored in one of them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Instance {
    /// The generation of the datapath whose tracepoints count, among those that share these maps: during a
    /// takeover two are attached, and a handshake must be counted once. It increases with each datapath.
    pub generation: u64,
    /// The key of [`crate::hash`].
    pub hash_key: u64,
    /// Prefix lengths under which sources are accounted: IPv4 in the low byte, IPv6 in the next one.
    pub prefix_lengths: u64,
}

impl Instance {
    /// Creates the instance for newly created maps, with generation 0.
    pub const fn new(hash_key: u64, prefix_v4: u8, prefix_v6: u8) -> Self {
        Self { generation: 0, hash_key, prefix_lengths: prefix_v4 as u64 | (prefix_v6 as u64) << 8 }
    }
}

/// A map that is carried over to the next daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CarriedMap {
    /// The name of the map.
    pub map: &'static str,
    /// The version of the map's content. It increases whenever an entry of the same size changes its meaning; a
    /// test compares it with the layout of the entries.
    pub version: u32,
    /// What is lost if the previous daemon's map does not fit; for the log.
    pub content: &'static str,
}

const fn carried(map: &'static str, version: u32, content: &'static str) -> CarriedMap {
    CarriedMap { map, version, content }
}

/// All maps that are carried over: the state collected by the datapath itself. Maps written by the daemon are
/// rewritten completely before the datapath that reads them takes over.
pub const CARRIED_MAPS: [CarriedMap; 16] = [
    carried(map::INSTANCE, 1, "all collected state"),
    carried(map::COUNTS, 2, "counters"),
    carried(map::SOURCES, 1, "what is known of each source"),
    carried(map::KNOWN_SOURCES, 1, "the filter of known sources"),
    carried(map::PREFIXES, 1, "the accounts of networks"),
    carried(map::DISTINCT, 1, "the number of different sources"),
    carried(map::SYN_BY_PORT, 1, "SYNs by port"),
    carried(map::HANDSHAKES_BY_PORT, 1, "handshakes by port"),
    carried(map::LISTENER_CHANGES, 1, "listener changes"),
    carried(map::PORT_LOADS, 1, "the load of each port"),
    carried(map::HANDSHAKES, 1, "half-open handshakes"),
    carried(map::FIRST_SYNS, 1, "first SYNs awaiting their retransmit"),
    carried(map::RETURNED_COOKIES, 1, "returned cookies"),
    carried(map::SKETCH, 1, "the sketch of SYNs by source"),
    carried(map::ADMISSION, 1, "the load that admission is based on"),
    carried(map::ALLOWANCE, 1, "the allowance of new entries"),
];

//! What one daemon leaves to the next: the maps that go on while it is replaced, and whose word they are.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::map;

/// What the maps that are carried over were made with. It stands in one of them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Instance {
    /// The datapath whose tracepoints count, of those that share these maps: while one takes over from another, both
    /// are attached, and a handshake must be counted once. It grows with each.
    pub generation: u64,
    /// Secret of [`crate::hash`].
    pub hash_key: u64,
    /// Prefix lengths that networks are accounted by: IPv4 in the low byte, IPv6 in the next one.
    pub prefix_lengths: u64,
}

impl Instance {
    /// The first one that makes these maps.
    pub const fn new(hash_key: u64, prefix_v4: u8, prefix_v6: u8) -> Self {
        Self { generation: 0, hash_key, prefix_lengths: prefix_v4 as u64 | (prefix_v6 as u64) << 8 }
    }
}

/// A map that is carried over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried {
    /// Its name.
    pub map: &'static str,
    /// The version of what is in it. It grows whenever an entry of the same size would mean something else; a test
    /// holds it against the entries' layout.
    pub version: u32,
    /// What is lost where it does not fit.
    pub content: &'static str,
}

const fn carried(map: &'static str, version: u32, content: &'static str) -> Carried {
    Carried { map, version, content }
}

/// Every map that is carried over: what the datapath itself has gathered. What the daemon writes into a map it writes
/// anew, whole, before the datapath that reads it takes over.
pub const CARRIED: [Carried; 16] = [
    carried(map::INSTANCE, 1, "all that was gathered"),
    carried(map::COUNTS, 1, "counters"),
    carried(map::SOURCES, 1, "what is known of each source"),
    carried(map::KNOWN_SOURCES, 1, "the filter of known sources"),
    carried(map::PREFIXES, 1, "the accounts of networks"),
    carried(map::DISTINCT, 1, "the number of different sources"),
    carried(map::SYN_BY_PORT, 1, "SYNs by port"),
    carried(map::HANDSHAKES_BY_PORT, 1, "handshakes by port"),
    carried(map::LISTENER_CHANGES, 1, "changes of listeners"),
    carried(map::PORT_LOADS, 1, "the loads of ports"),
    carried(map::HANDSHAKES, 1, "half-open handshakes"),
    carried(map::FIRST_SYNS, 1, "first SYNs that wait to be sent again"),
    carried(map::RETURNED_COOKIES, 1, "cookies that came back"),
    carried(map::SKETCH, 1, "the sketch of SYNs by source"),
    carried(map::ADMISSION, 1, "who earns an entry"),
    carried(map::ALLOWANCE, 1, "how many entries may be given"),
];

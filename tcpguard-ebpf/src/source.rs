//! Sources and connections, and the hashes that every structure is indexed by.

use tcpguard_common::{
    address::{Address, prefix_mask},
    hash,
    packet::Segment,
};

use crate::settings;

/// A source and its hash.
#[derive(Clone, Copy)]
pub struct Source {
    pub address: Address,
    pub hash: u64,
}

impl Source {
    #[inline(always)]
    pub fn new(address: Address) -> Self {
        Self { address, hash: hash::address(settings::hash_key(), address) }
    }

    /// Returns the hash of the network that a single customer may have at most: /24 for IPv4, /48 for IPv6.
    #[inline(always)]
    pub fn customer_hash(self) -> u64 {
        const IPV4: Address = prefix_mask(96 + 24);
        const IPV6: Address = prefix_mask(48);
        let mask = if self.address.is_ipv4() { IPV4 } else { IPV6 };
        hash::address(settings::hash_key(), self.address.masked(mask))
    }
}

/// Returns the hash of the connection that a segment belongs to.
#[inline(always)]
pub fn connection_of(source: Source, segment: &Segment) -> u64 {
    hash::connection(source.hash, segment.source_port, segment.destination_port)
}

//! Sources and connections, and the hashes that every structure is indexed by.

use tcpguard_common::{address::Address, hash, packet::Segment};

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
}

/// Returns the hash of the client, an address and a port, that sent a segment.
#[inline(always)]
pub fn client_of(source: Source, segment: &Segment) -> u64 {
    hash::client(source.hash, segment.source_port)
}

/// Returns the hash of the connection that a segment of a client belongs to.
#[inline(always)]
pub fn connection_of(client: u64, segment: &Segment) -> u64 {
    hash::connection(client, segment.destination, segment.destination_port)
}

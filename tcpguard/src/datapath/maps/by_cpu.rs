//! Arrays with a row of elements for each CPU.

use aya::{
    Pod,
    maps::{Array, IterableMap, MapData},
};
use tcpguard_common::abi::by_cpu::{key, rows};
use zerocopy::{FromBytes, IntoBytes};

use super::super::{DatapathError, batch};

/// Reads an array that has a row of elements for each CPU ([`tcpguard_common::abi::by_cpu`]).
pub struct ByCpu<V: Pod> {
    name: &'static str,
    map: Array<MapData, V>,
    /// How many CPUs have a row of their own.
    cpus: u32,
}

impl<V: Pod + FromBytes + IntoBytes> ByCpu<V> {
    pub(super) const fn new(name: &'static str, map: Array<MapData, V>, cpus: u32) -> Self {
        Self { name, map, cpus }
    }

    /// Returns the elements of all CPUs at `index`.
    ///
    /// # Errors
    /// Returns an error if the map cannot be read, or has no such element.
    pub fn read(&self, index: u32) -> Result<Vec<V>, DatapathError> {
        batch::read_elements(IterableMap::map(&self.map), key(index, 0, self.cpus), rows(self.cpus))
            .map_err(|source| DatapathError::Batch { map: self.name, source })
    }
}

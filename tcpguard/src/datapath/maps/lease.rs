//! The lease that the daemon renews with each tick.

use aya::maps::{Array, MapData};
use tcpguard_common::abi::{lease::Lease, names::map};

use super::super::DatapathError;

/// Reads and writes the `CONTROL` variable.
pub struct LeaseMap(Array<MapData, Lease>);

impl LeaseMap {
    pub(super) const fn new(map: Array<MapData, Lease>) -> Self {
        Self(map)
    }

    /// Returns the lease as it was last written.
    ///
    /// # Errors
    /// Returns an error if the map cannot be read.
    pub fn read(&self) -> Result<Lease, DatapathError> {
        self.0.get(&0, 0).map_err(DatapathError::map(map::CONTROL))
    }

    /// Writes the lease.
    ///
    /// # Errors
    /// Returns an error if the map cannot be written.
    pub fn grant(&mut self, lease: &Lease) -> Result<(), DatapathError> {
        self.0.set(0, lease, 0).map_err(DatapathError::map(map::CONTROL))
    }

    /// Revokes the lease: the datapath passes everything from the next packet on.
    ///
    /// # Errors
    /// Returns an error if the map cannot be written.
    pub fn revoke(&mut self) -> Result<(), DatapathError> {
        self.grant(&Lease::NONE)
    }
}

//! The lease that the daemon renews with each tick.

use aya::maps::{Array, MapData};
use tcpguard_common::abi::{lease::Lease, names::map};

use super::super::DatapathError;

/// Reads and writes the `CONTROL` variable.
pub struct ControlMap(Array<MapData, Lease>);

impl ControlMap {
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
    pub fn give(&mut self, control: &Lease) -> Result<(), DatapathError> {
        self.0.set(0, control, 0).map_err(DatapathError::map(map::CONTROL))
    }
}

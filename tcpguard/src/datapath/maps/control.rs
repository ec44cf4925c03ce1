//! The daemon's word to the datapath.

use aya::maps::{Array, MapData};
use tcpguard_common::{control::Control, layout::map};

use super::super::DatapathError;

/// Writes it.
pub struct ControlMap(Array<MapData, Control>);

impl ControlMap {
    pub(super) const fn new(map: Array<MapData, Control>) -> Self {
        Self(map)
    }

    /// The daemon's word, as it was last given.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn read(&self) -> Result<Control, DatapathError> {
        self.0.get(&0, 0).map_err(DatapathError::map(map::CONTROL))
    }

    /// Gives the daemon's word anew.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn give(&mut self, control: &Control) -> Result<(), DatapathError> {
        self.0.set(0, control, 0).map_err(DatapathError::map(map::CONTROL))
    }
}

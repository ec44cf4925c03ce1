//! The interfaces on which completed handshakes count even if the source has no entry.

use std::collections::BTreeSet;

use aya::maps::{HashMap, MapData};
use tcpguard_common::abi::{
    guarded::{GUARDED, INNER, STACKED},
    names::map,
};

use super::super::DatapathError;

/// Writes the set of interface indices.
pub struct GuardedInterfaceMap(HashMap<MapData, u32, u32>);

impl GuardedInterfaceMap {
    pub(super) const fn new(map: HashMap<MapData, u32, u32>) -> Self {
        Self(map)
    }

    /// Sets the indices of the interfaces; those that are not `guarded` are stacked on them, and those in `inner` lead to
    /// protected networks.
    ///
    /// # Errors
    /// Returns an error if the map cannot be written, or is full.
    pub fn set(
        &mut self,
        indices: &BTreeSet<u32>,
        guarded: &[u32],
        inner: &BTreeSet<u32>,
    ) -> Result<(), DatapathError> {
        let failed = DatapathError::map(map::GUARDED_INTERFACES);
        let kind = |index: &u32| {
            let side = if inner.contains(index) { INNER } else { 0 };
            side | if guarded.contains(index) { GUARDED } else { STACKED }
        };
        let old: Vec<u32> = self.0.keys().filter_map(Result::ok).filter(|index| !indices.contains(index)).collect();
        old.iter()
            .try_for_each(|index| self.0.remove(index))
            .and_then(|()| indices.iter().try_for_each(|index| self.0.insert(index, kind(index), 0)))
            .map_err(failed)
    }
}

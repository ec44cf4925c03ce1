//! The source table.

use std::sync::Arc;

use aya::maps::{HashMap, IterableMap, MapData, MapError};
use tcpguard_common::{abi::names::map, address::Address, tracking::source::SourceEntry};

use super::super::{BatchReader, DatapathError, Progress};

/// The number of entries read per system call.
const BATCH: usize = 1024;

/// Reads the source table. Clones share the map.
#[derive(Clone)]
pub struct SourceMap(Arc<HashMap<MapData, Address, SourceEntry>>);

/// A walk over the source table that can be interrupted and resumed.
pub struct SourceScan {
    batch: BatchReader<Address, SourceEntry>,
}

impl SourceMap {
    pub(super) fn new(map: HashMap<MapData, Address, SourceEntry>) -> Self {
        Self(Arc::new(map))
    }

    /// Returns the entry of a source.
    ///
    /// # Errors
    /// Returns an error if the map cannot be read.
    pub fn get(&self, source: Address) -> Result<Option<SourceEntry>, DatapathError> {
        match self.0.get(&source, 0) {
            Ok(entry) => Ok(Some(entry)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(DatapathError::map(map::SOURCES)(error)),
        }
    }

    /// Sets the entry of a source.
    ///
    /// # Errors
    /// Returns an error if the map cannot be written, or clones of this exist.
    pub fn insert(&mut self, source: Address, entry: &SourceEntry) -> Result<(), DatapathError> {
        let table = Arc::get_mut(&mut self.0).ok_or(DatapathError::NoRoom(source))?;
        table.insert(source, entry, 0).map_err(DatapathError::map(map::SOURCES))
    }

    /// Calls `visit` for every entry.
    ///
    /// # Errors
    /// Returns an error if the map cannot be read.
    pub fn for_each(&self, mut visit: impl FnMut(&Address, &SourceEntry)) -> Result<(), DatapathError> {
        let mut scan = SourceScan::new();
        while scan.next(self, &mut visit)? == Progress::More {}
        Ok(())
    }
}

impl SourceScan {
    /// Creates a walk that begins at the start of the table.
    pub fn new() -> Self {
        Self { batch: BatchReader::new(BATCH) }
    }

    /// Calls `visit` for the next entries, about [`BATCH`] at most.
    ///
    /// # Errors
    /// Returns an error if the map cannot be read.
    pub fn next(
        &mut self,
        sources: &SourceMap,
        visit: impl FnMut(&Address, &SourceEntry),
    ) -> Result<Progress, DatapathError> {
        self.batch
            .next(IterableMap::map(&*sources.0), visit)
            .map_err(|source| DatapathError::Batch { map: map::SOURCES, source })
    }
}

impl Default for SourceScan {
    fn default() -> Self {
        Self::new()
    }
}

//! The filter of sources that have an entry, which is rebuilt from the table now and then.

use aya::maps::{Array, MapData};
use tcpguard_common::{
    address::Address,
    filter::{Block, WORDS_PER_BLOCK, position},
    hash,
    layout::map,
};

use super::super::DatapathError;

/// Rewrites the filter.
pub struct KnownSources {
    map: Array<MapData, Block>,
    hash_key: u64,
    blocks: u32,
}

/// A filter that is being put together.
pub struct NewFilter(Vec<Block>);

impl KnownSources {
    pub(super) const fn new(map: Array<MapData, Block>, hash_key: u64, blocks: u32) -> Self {
        Self { map, hash_key, blocks }
    }

    /// An empty filter to put together.
    pub fn start(&self) -> NewFilter {
        NewFilter(vec![[0; WORDS_PER_BLOCK]; self.blocks as usize])
    }

    /// Adds a source that has an entry.
    pub fn add(&self, filter: &mut NewFilter, source: Address) {
        let (block, word, mask) = position(hash::address(self.hash_key, source), self.blocks);
        if let Some(words) = filter.0.get_mut(block as usize) {
            words[word] |= mask;
        }
    }

    /// Puts `filter` in force. A source that was admitted meanwhile may be missing
    /// from it: its next SYN is counted in the sketch and sets its bits again.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn replace(&mut self, filter: &NewFilter) -> Result<(), DatapathError> {
        for (index, block) in (0..).zip(&filter.0) {
            let current = self.map.get(&index, 0).map_err(DatapathError::map(map::KNOWN_SOURCES))?;
            if current != *block {
                self.map.set(index, *block, 0).map_err(DatapathError::map(map::KNOWN_SOURCES))?;
            }
        }
        Ok(())
    }
}

//! The filter of sources with an entry, which is rebuilt from the source table from time to time.

use aya::maps::{Array, MapData};
use tcpguard_common::{
    abi::names::map,
    address::Address,
    hash,
    tracking::filter::{Block, WORDS_PER_BLOCK, position},
};

use super::super::DatapathError;

/// Rebuilds the filter.
pub struct KnownSources {
    map: Array<MapData, Block>,
    hash_key: u64,
    blocks: u32,
}

/// A filter under construction during a walk over the source table.
pub struct NewFilter {
    rebuilt: Vec<Block>,
    /// The active filter when the walk began. Bits that are set in it later are kept.
    at_start: Vec<Block>,
}

impl KnownSources {
    pub(super) const fn new(map: Array<MapData, Block>, hash_key: u64, blocks: u32) -> Self {
        Self { map, hash_key, blocks }
    }

    /// Starts a new filter. Call this before the walk over the source table.
    ///
    /// # Errors
    /// Returns an error if the map cannot be read.
    pub fn start(&self) -> Result<NewFilter, DatapathError> {
        let at_start = (0..self.blocks).map(|index| self.block(index)).collect::<Result<Vec<_>, _>>()?;
        Ok(NewFilter { rebuilt: vec![[0; WORDS_PER_BLOCK]; at_start.len()], at_start })
    }

    /// Adds a source that has an entry to `filter`.
    pub fn add(&self, filter: &mut NewFilter, source: Address) {
        let (block, word, mask) = position(hash::address(self.hash_key, source), self.blocks);
        if let Some(words) = filter.rebuilt.get_mut(block as usize) {
            words[word] |= mask;
        }
    }

    /// Activates `filter`, with the bits that were set since it was started. Bits that are set between
    /// reading and writing a block may be lost; the source's next SYN is then counted in the sketch, like
    /// that of an unknown source, and sets them again.
    ///
    /// # Errors
    /// Returns an error if the map cannot be read or written.
    pub fn replace(&mut self, filter: &NewFilter) -> Result<(), DatapathError> {
        for (index, (rebuilt, at_start)) in (0..).zip(filter.rebuilt.iter().zip(&filter.at_start)) {
            let current = self.block(index)?;
            let mut next = *rebuilt;
            for (word, (now, then)) in next.iter_mut().zip(current.iter().zip(at_start)) {
                *word |= now & !then;
            }
            if current != next {
                self.map.set(index, next, 0).map_err(DatapathError::map(map::KNOWN_SOURCES))?;
            }
        }
        Ok(())
    }

    fn block(&self, index: u32) -> Result<Block, DatapathError> {
        self.map.get(&index, 0).map_err(DatapathError::map(map::KNOWN_SOURCES))
    }
}

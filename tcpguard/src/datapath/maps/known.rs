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

/// A filter that is being put together from a walk over the table.
pub struct NewFilter {
    rebuilt: Vec<Block>,
    /// The filter in force when the walk began: what is set since then is kept.
    at_start: Vec<Block>,
}

impl KnownSources {
    pub(super) const fn new(map: Array<MapData, Block>, hash_key: u64, blocks: u32) -> Self {
        Self { map, hash_key, blocks }
    }

    /// Starts a filter, before a walk over the table.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn start(&self) -> Result<NewFilter, DatapathError> {
        let at_start = (0..self.blocks).map(|index| self.block(index)).collect::<Result<Vec<_>, _>>()?;
        Ok(NewFilter { rebuilt: vec![[0; WORDS_PER_BLOCK]; at_start.len()], at_start })
    }

    /// Adds a source that has an entry.
    pub fn add(&self, filter: &mut NewFilter, source: Address) {
        let (block, word, mask) = position(hash::address(self.hash_key, source), self.blocks);
        if let Some(words) = filter.rebuilt.get_mut(block as usize) {
            words[word] |= mask;
        }
    }

    /// Puts `filter` in force, with the bits that were set since it was started. In the moment between
    /// reading and writing a block another bit may be lost; its source's next SYN is then counted in
    /// the sketch, as that of an unknown one, and sets it again.
    ///
    /// # Errors
    /// Where the map cannot be read or written.
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

//! The source table ([`tcpguard_common::tracking::source_table`]).

use std::sync::Arc;

use aya::maps::{Array, IterableMap, MapData};
use tcpguard_common::{
    abi::names::map,
    address::Address,
    hash,
    tracking::{
        source::SourceEntry,
        source_table::{self, Matches, PLACES_PER_SLAB, Place, Position, Slab},
    },
};

use super::super::{DatapathError, window::Window};

/// How many entries are read before a walk can be interrupted, about.
const BATCH: usize = 1024;
/// Slabs of tags mapped at once.
const SLABS_AT_ONCE: u32 = 512;
/// With more entries than this in a slab, its places are mapped, which costs as much as so many look-ups.
const FEW: usize = 6;

/// Reads the source table. Clones share the maps.
#[derive(Clone)]
pub struct SourceMap(Arc<Table>);

struct Table {
    tags: Array<MapData, Slab>,
    places: Array<MapData, Place>,
    hash_key: u64,
}

/// The progress of a walk over the source table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More entries may follow.
    More,
    /// The end was reached; the next call starts over.
    Complete,
}

/// A walk over the source table that can be interrupted and resumed.
#[derive(Default)]
pub struct SourceScan {
    /// The tags of some slabs, from the one at `first` on.
    tags: Vec<Slab>,
    first: u32,
    /// How many of these slabs have been visited.
    visited: u32,
}

impl SourceMap {
    pub(super) fn new(tags: Array<MapData, Slab>, places: Array<MapData, Place>, hash_key: u64) -> Self {
        Self(Arc::new(Table { tags, places, hash_key }))
    }

    /// Returns the entry of a source.
    ///
    /// # Errors
    /// Returns an error if a map cannot be read.
    pub fn get(&self, source: Address) -> Result<Option<SourceEntry>, DatapathError> {
        Ok(self.0.find(source)?.map(|(_, entry)| entry))
    }

    /// Sets the entry of a source that has one.
    ///
    /// # Errors
    /// Returns an error if a map cannot be read or written, the source has no entry, or clones of this exist.
    pub fn set(&mut self, source: Address, entry: SourceEntry) -> Result<(), DatapathError> {
        let table = Arc::get_mut(&mut self.0).ok_or(DatapathError::NoRoom(source))?;
        let (number, _) = table.find(source)?.ok_or(DatapathError::NoRoom(source))?;
        table.places.set(number, Place { address: source, entry }, 0).map_err(DatapathError::map(map::SOURCES))
    }

    /// Calls `visit` for every entry.
    ///
    /// # Errors
    /// Returns an error if a map cannot be read.
    pub fn for_each(&self, mut visit: impl FnMut(&Address, &SourceEntry)) -> Result<(), DatapathError> {
        let mut scan = SourceScan::default();
        while scan.next(self, &mut visit)? == Progress::More {}
        Ok(())
    }
}

impl Table {
    /// Returns the place of a source, and its entry.
    fn find(&self, source: Address) -> Result<Option<(u32, SourceEntry)>, DatapathError> {
        let position = Position::of(hash::address(self.hash_key, source), self.tags.len());
        let mut slab = self.tags.get(&position.slab(), 0).map_err(DatapathError::map(map::SOURCE_TAGS))?;
        let mut matches = Matches::of(position.tags(&mut slab), position.tag);
        while !matches.is_empty() {
            let number = position.place(matches.first());
            let place = self.place(number)?;
            if place.address == source {
                return Ok(Some((number, place.entry)));
            }
            matches = matches.rest();
        }
        Ok(None)
    }

    fn place(&self, number: u32) -> Result<Place, DatapathError> {
        self.places.get(&number, 0).map_err(DatapathError::map(map::SOURCES))
    }

    /// Calls `visit` for the entries of a slab; returns how many they are.
    fn visit(
        &self,
        slab: u32,
        tags: &Slab,
        mut visit: impl FnMut(&Address, &SourceEntry),
    ) -> Result<usize, DatapathError> {
        let first = slab * PLACES_PER_SLAB;
        let occupied: Vec<u32> = source_table::occupied(tags).collect();
        if occupied.len() > FEW {
            let places = Window::open(IterableMap::map(&self.places), size_of::<Place>(), first, PLACES_PER_SLAB)
                .map_err(|source| DatapathError::Batch { map: map::SOURCES, source })?;
            for place in occupied.iter().filter_map(|number| places.read::<Place>(*number as usize)) {
                visit(&place.address, &place.entry);
            }
        } else {
            for number in &occupied {
                let place = self.place(first + number)?;
                visit(&place.address, &place.entry);
            }
        }
        Ok(occupied.len())
    }
}

impl SourceScan {
    /// Calls `visit` for the next entries, about [`BATCH`] at most.
    ///
    /// # Errors
    /// Returns an error if a map cannot be read.
    pub fn next(
        &mut self,
        sources: &SourceMap,
        mut visit: impl FnMut(&Address, &SourceEntry),
    ) -> Result<Progress, DatapathError> {
        let table = &*sources.0;
        if self.tags.is_empty() {
            let count = (table.tags.len() - self.first).min(SLABS_AT_ONCE);
            let tags = Window::open(IterableMap::map(&table.tags), size_of::<Slab>(), self.first, count)
                .map_err(|source| DatapathError::Batch { map: map::SOURCE_TAGS, source })?;
            self.tags = (0..count as usize).map_while(|slab| tags.read(slab)).collect();
        }
        let mut entries = 0;
        while let Some(tags) = self.tags.get(self.visited as usize)
            && entries < BATCH
        {
            entries += table.visit(self.first + self.visited, tags, &mut visit)?;
            self.visited += 1;
        }
        if (self.visited as usize) < self.tags.len() {
            return Ok(Progress::More);
        }
        let reached = self.first + self.visited;
        let progress = if reached < table.tags.len() { Progress::More } else { Progress::Complete };
        *self = Self { first: if progress == Progress::More { reached } else { 0 }, ..Self::default() };
        Ok(progress)
    }
}

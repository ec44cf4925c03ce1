//! The challenge terms of each place ([`tcpguard_common::abi::place`]).

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{Array, HashMap, MapData};
use tcpguard_common::{
    abi::{
        names::map,
        port::{Endpoint, MAX_ENDPOINTS, PortChallenge},
    },
    address::Address,
};

use super::super::DatapathError;

/// Writes the challenge terms and endpoints, and reads how often listeners changed.
pub struct ChallengeMaps {
    terms: Array<MapData, PortChallenge>,
    changes: Array<MapData, u64>,
    endpoints: HashMap<MapData, Endpoint, u32>,
    /// The terms last written, by place.
    written: BTreeMap<u32, PortChallenge>,
    /// All flags that any of them have.
    flags: u32,
    written_endpoints: BTreeSet<(Address, u16)>,
}

impl ChallengeMaps {
    pub(super) const fn new(
        terms: Array<MapData, PortChallenge>,
        changes: Array<MapData, u64>,
        endpoints: HashMap<MapData, Endpoint, u32>,
    ) -> Self {
        Self { terms, changes, endpoints, written: BTreeMap::new(), flags: 0, written_endpoints: BTreeSet::new() }
    }

    /// Returns how often the listeners of a port have changed.
    ///
    /// # Errors
    /// Returns an error if the map cannot be read.
    pub fn listener_changes(&self, port: u16) -> Result<u64, DatapathError> {
        self.changes.get(&port.into(), 0).map_err(DatapathError::map(map::LISTENER_CHANGES))
    }

    /// Sets the terms of these places; `None` for one that is not challenged.
    ///
    /// # Errors
    /// Returns an error if the map cannot be written.
    pub fn set_terms(&mut self, terms: &BTreeMap<u32, Option<PortChallenge>>) -> Result<(), DatapathError> {
        let changed: Vec<_> = terms.iter().filter(|(place, terms)| self.written.get(place) != terms.as_ref()).collect();
        if changed.is_empty() {
            return Ok(());
        }
        let result = changed.into_iter().try_for_each(|(place, terms)| self.write(*place, *terms));
        self.flags = self.written.values().fold(0, |flags, terms| flags | terms.flags);
        result
    }

    /// Removes the terms of places that are not `wanted`.
    ///
    /// # Errors
    /// Returns an error if the map cannot be written.
    pub fn keep_only(&mut self, wanted: impl Fn(u32) -> bool) -> Result<(), DatapathError> {
        let gone = self.written.keys().filter(|place| !wanted(**place));
        let gone: BTreeMap<u32, Option<PortChallenge>> = gone.map(|place| (*place, None)).collect();
        self.set_terms(&gone)
    }

    /// Returns whether any place has terms.
    pub fn has_terms(&self) -> bool {
        !self.written.is_empty()
    }

    /// Returns whether the terms of any place have any of these bits of [`tcpguard_common::abi::port::port_flag`].
    pub const fn has(&self, flags: u32) -> bool {
        self.flags & flags != 0
    }

    /// Sets the addresses and ports of listeners that are bound to a specific address. At most [`MAX_ENDPOINTS`] are
    /// written.
    ///
    /// # Errors
    /// Returns an error if the map cannot be written, or is full.
    pub fn set_endpoints(&mut self, endpoints: BTreeSet<(Address, u16)>) -> Result<(), DatapathError> {
        let endpoint = |(address, port): (_, u16)| Endpoint { address, port: port.into() };
        for gone in self.written_endpoints.difference(&endpoints).copied().collect::<Vec<_>>() {
            self.endpoints.remove(&endpoint(gone)).map_err(DatapathError::map(map::ENDPOINTS))?;
            self.written_endpoints.remove(&gone);
        }
        // SYNs to the endpoints that do not fit are not challenged.
        let room = (MAX_ENDPOINTS as usize).saturating_sub(self.written_endpoints.len());
        let new: Vec<_> = endpoints.difference(&self.written_endpoints).copied().take(room).collect();
        for new in new {
            self.endpoints.insert(endpoint(new), 1, 0).map_err(DatapathError::map(map::ENDPOINTS))?;
            self.written_endpoints.insert(new);
        }
        Ok(())
    }

    fn write(&mut self, place: u32, terms: Option<PortChallenge>) -> Result<(), DatapathError> {
        self.terms.set(place, terms.unwrap_or_default(), 0).map_err(DatapathError::map(map::CHALLENGES))?;
        match terms {
            Some(terms) => drop(self.written.insert(place, terms)),
            None => drop(self.written.remove(&place)),
        }
        Ok(())
    }
}

//! How the SYNs to each port are challenged.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{Array, HashMap, MapData};
use tcpguard_common::{
    challenge::{Endpoint, PortChallenge, load::PortLoad},
    layout::map,
};

use super::super::DatapathError;

/// Writes the terms of ports, and reads what the datapath knows of them.
pub struct ChallengeMaps {
    terms: Array<MapData, PortChallenge>,
    changes: Array<MapData, u64>,
    endpoints: HashMap<MapData, Endpoint, u32>,
    loads: Array<MapData, PortLoad>,
    /// Ports that have terms, and which.
    written: BTreeMap<u16, PortChallenge>,
    written_endpoints: BTreeSet<(tcpguard_common::address::Address, u16)>,
}

impl ChallengeMaps {
    pub(super) const fn new(
        terms: Array<MapData, PortChallenge>,
        changes: Array<MapData, u64>,
        endpoints: HashMap<MapData, Endpoint, u32>,
        loads: Array<MapData, PortLoad>,
    ) -> Self {
        Self {
            terms,
            changes,
            endpoints,
            loads,
            written: BTreeMap::new(),
            written_endpoints: BTreeSet::new(),
        }
    }

    /// How often the listeners of a port have changed.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn listener_changes(&self, port: u16) -> Result<u64, DatapathError> {
        self.changes.get(&port.into(), 0).map_err(DatapathError::map(map::LISTENER_CHANGES))
    }

    /// Until when, in jiffies, the datapath challenges the SYNs to a port by itself; 0 where it never did.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn triggered_until(&self, port: u16) -> Result<u64, DatapathError> {
        let load = self.loads.get(&port.into(), 0).map_err(DatapathError::map(map::PORT_LOADS))?;
        Ok(load.challenged_until)
    }

    /// Puts these terms in force, and none for any other port.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn set_terms(&mut self, terms: &BTreeMap<u16, PortChallenge>) -> Result<(), DatapathError> {
        let gone: Vec<u16> = self.written.keys().filter(|port| !terms.contains_key(port)).copied().collect();
        for port in gone {
            self.write(port, PortChallenge::default())?;
            self.written.remove(&port);
        }
        for (port, terms) in terms {
            if self.written.get(port) != Some(terms) {
                self.write(*port, *terms)?;
                self.written.insert(*port, *terms);
            }
        }
        Ok(())
    }

    /// Makes these the addresses and ports of listeners that do not take what comes to any address.
    ///
    /// # Errors
    /// Where the map cannot be written, or has no room.
    pub fn set_endpoints(
        &mut self,
        endpoints: BTreeSet<(tcpguard_common::address::Address, u16)>,
    ) -> Result<(), DatapathError> {
        let failed = DatapathError::map(map::ENDPOINTS);
        let endpoint = |(address, port): (_, u16)| Endpoint { address, port: port.into() };
        let gone = self.written_endpoints.difference(&endpoints);
        let new = endpoints.difference(&self.written_endpoints);
        let result = gone
            .copied()
            .try_for_each(|gone| self.endpoints.remove(&endpoint(gone)))
            .and_then(|()| new.copied().try_for_each(|new| self.endpoints.insert(endpoint(new), 1, 0)));
        self.written_endpoints = endpoints;
        result.map_err(failed)
    }

    fn write(&mut self, port: u16, terms: PortChallenge) -> Result<(), DatapathError> {
        self.terms.set(port.into(), terms, 0).map_err(DatapathError::map(map::CHALLENGES))
    }
}

//! The host's destinations: its addresses, its listening ports, and the payload policies of ports.

use std::collections::BTreeSet;

use aya::maps::{
    Array, MapData,
    lpm_trie::{Key, LpmTrie},
};
use tcpguard_common::{
    abi::{
        listening::{CLOSED, LISTENING, REDIRECTED},
        local_addresses,
        names::map,
    },
    address::Address,
};

use super::super::DatapathError;
use crate::network::Network;

/// Writes the host's own addresses.
pub struct LocalAddresses {
    map: Array<MapData, local_addresses::Set>,
    networks: LpmTrie<MapData, Address, u32>,
    written: Option<Vec<local_addresses::Set>>,
    written_networks: BTreeSet<Network>,
}

impl LocalAddresses {
    pub(super) const fn new(
        map: Array<MapData, local_addresses::Set>,
        networks: LpmTrie<MapData, Address, u32>,
    ) -> Self {
        Self { map, networks, written: None, written_networks: BTreeSet::new() }
    }

    /// Returns whether the host accepts every address of some networks.
    pub fn has_networks(&self) -> bool {
        !self.written_networks.is_empty()
    }

    /// Sets the host's addresses, and the networks of which it accepts every address. Returns false, without writing, if
    /// they do not fit: every destination must then count as the host's.
    ///
    /// # Errors
    /// Returns an error if a map cannot be written.
    pub fn set(&mut self, addresses: &BTreeSet<Address>, networks: &BTreeSet<Network>) -> Result<bool, DatapathError> {
        if networks.len() > local_addresses::MAX_NETWORKS as usize {
            return Ok(false);
        }
        let mut sets = vec![local_addresses::Set::default(); local_addresses::SETS];
        if !local_addresses::insert_all(&mut sets, addresses.iter().copied()) {
            return Ok(false);
        }
        for (index, set) in (0..).zip(sets.iter()) {
            let is_written = self.written.as_ref().is_some_and(|written| written[index as usize] == *set);
            if !is_written {
                self.map.set(index, set, 0).map_err(DatapathError::map(map::LOCAL_ADDRESSES))?;
            }
        }
        self.written = Some(sets);
        self.set_networks(networks)?;
        Ok(true)
    }

    /// Adds a network of which the host accepts every address.
    ///
    /// # Errors
    /// Returns an error if the map cannot be written.
    pub(in crate::datapath) fn add_network(&mut self, network: &Key<Address>) -> Result<(), DatapathError> {
        self.networks.insert(network, 1, 0).map_err(DatapathError::map(map::LOCAL_NETWORKS))
    }

    fn set_networks(&mut self, networks: &BTreeSet<Network>) -> Result<(), DatapathError> {
        let key = |network: &Network| Key::new(network.length().into(), network.first());
        for gone in self.written_networks.difference(networks) {
            self.networks.remove(&key(gone)).map_err(DatapathError::map(map::LOCAL_NETWORKS))?;
        }
        for new in networks.difference(&self.written_networks) {
            self.networks.insert(&key(new), 1, 0).map_err(DatapathError::map(map::LOCAL_NETWORKS))?;
        }
        self.written_networks.clone_from(networks);
        Ok(())
    }
}

/// Maintains the set of ports with a listener. The datapath itself notices when listeners open and close; this
/// corrects what it cannot see.
pub struct ListeningPorts {
    map: Array<MapData, u64>,
    open: BTreeSet<u16>,
    redirected: BTreeSet<u16>,
}

impl ListeningPorts {
    pub(super) const fn new(map: Array<MapData, u64>) -> Self {
        Self { map, open: BTreeSet::new(), redirected: BTreeSet::new() }
    }

    /// Sets the ports that have a listener. What the datapath has noted of a port that had one before is reviewed only if
    /// `is_reviewed`.
    ///
    /// # Errors
    /// Returns an error if the map cannot be read or written.
    pub fn set(&mut self, open: &BTreeSet<u16>, is_reviewed: impl Fn(u16) -> bool) -> Result<(), DatapathError> {
        let due = open.iter().filter(|port| is_reviewed(**port) || !self.open.contains(port));
        for port in due.collect::<Vec<_>>() {
            self.change(*port, |state| state != LISTENING, LISTENING)?;
        }
        for port in self.open.difference(open).copied().collect::<Vec<_>>() {
            self.change(port, |state| state == LISTENING, CLOSED)?;
        }
        self.open.clone_from(open);
        Ok(())
    }

    /// Sets the ports that have no listener and are redirected. What the datapath has noted since, because a listener opened or
    /// closed, is corrected if `is_review`.
    ///
    /// # Errors
    /// Returns an error if the map cannot be read or written.
    pub fn set_redirected(&mut self, redirected: &BTreeSet<u16>, is_review: bool) -> Result<(), DatapathError> {
        for port in redirected.iter().filter(|port| is_review || !self.redirected.contains(port)).collect::<Vec<_>>() {
            self.change(*port, |state| state == CLOSED, REDIRECTED)?;
        }
        for port in self.redirected.difference(redirected).copied().collect::<Vec<_>>() {
            self.change(port, |state| state == REDIRECTED, CLOSED)?;
        }
        self.redirected.clone_from(redirected);
        Ok(())
    }

    fn change(&mut self, port: u16, is_due: impl Fn(u64) -> bool, state: u64) -> Result<(), DatapathError> {
        let failed = DatapathError::map(map::LISTENING);
        match self.map.get(&port.into(), 0) {
            Ok(current) if is_due(current) => self.map.set(port.into(), state, 0).map_err(failed),
            Ok(_) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }
}

/// Writes the policies for SYNs with data, per port.
pub struct PayloadPolicies(Array<MapData, u32>);

impl PayloadPolicies {
    pub(super) const fn new(map: Array<MapData, u32>) -> Self {
        Self(map)
    }

    /// Sets the policy of one port to a constant of [`tcpguard_common::abi::lease::payload_policy`].
    ///
    /// # Errors
    /// Returns an error if the map cannot be written.
    pub fn set(&mut self, port: u16, policy: u32) -> Result<(), DatapathError> {
        self.0.set(port.into(), policy, 0).map_err(DatapathError::map(map::PAYLOAD_POLICY))
    }
}

//! The protected networks, and the places of their ports.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{
    HashMap, MapData,
    lpm_trie::{Key, LpmTrie},
};
use tcpguard_common::{
    abi::{
        names::map,
        place::{self, ProtectedPort},
    },
    address::Address,
};

use super::super::DatapathError;
use crate::{config::Protect, network::Network};

/// Writes the protected networks.
pub struct ProtectedMaps {
    networks: LpmTrie<MapData, Address, u32>,
    ports: HashMap<MapData, ProtectedPort, u32>,
    written_networks: BTreeSet<Network>,
    written_ports: BTreeMap<(u32, u16), u32>,
}

impl ProtectedMaps {
    pub(super) const fn new(
        networks: LpmTrie<MapData, Address, u32>,
        ports: HashMap<MapData, ProtectedPort, u32>,
    ) -> Self {
        Self { networks, ports, written_networks: BTreeSet::new(), written_ports: BTreeMap::new() }
    }

    /// Sets the sections of the configuration. While they change, SYNs to them may pass unjudged.
    ///
    /// # Errors
    /// Returns an error if a map cannot be written, or is full.
    pub fn set(&mut self, sections: &[Protect]) -> Result<(), DatapathError> {
        for gone in std::mem::take(&mut self.written_networks) {
            self.networks.remove(&key(gone)).map_err(DatapathError::map(map::PROTECTED_NETWORKS))?;
        }
        for ((network, port), _) in std::mem::take(&mut self.written_ports) {
            self.ports
                .remove(&ProtectedPort { network, port: port.into() })
                .map_err(DatapathError::map(map::PROTECTED_PORTS))?;
        }
        let mut places = (0..).map_while(place::of_protected);
        for (index, section) in (0..).zip(sections) {
            for (port, place) in section.ports.iter().zip(&mut places) {
                self.ports
                    .insert(ProtectedPort { network: index, port: (*port).into() }, place, 0)
                    .map_err(DatapathError::map(map::PROTECTED_PORTS))?;
                self.written_ports.insert((index, *port), place);
            }
            for network in section.networks.iter().map(|network| Network::from(*network)) {
                self.networks.insert(&key(network), index, 0).map_err(DatapathError::map(map::PROTECTED_NETWORKS))?;
                self.written_networks.insert(network);
            }
        }
        Ok(())
    }

    /// Copies what another datapath's maps hold.
    ///
    /// # Errors
    /// Returns an error if a map cannot be read or written.
    pub(in crate::datapath) fn copy(
        &mut self,
        networks: &LpmTrie<MapData, Address, u32>,
        ports: &HashMap<MapData, ProtectedPort, u32>,
    ) -> Result<(), DatapathError> {
        for entry in networks.iter() {
            let (network, index) = entry.map_err(DatapathError::map(map::PROTECTED_NETWORKS))?;
            self.networks.insert(&network, index, 0).map_err(DatapathError::map(map::PROTECTED_NETWORKS))?;
        }
        for entry in ports.iter() {
            let (port, place) = entry.map_err(DatapathError::map(map::PROTECTED_PORTS))?;
            self.ports.insert(port, place, 0).map_err(DatapathError::map(map::PROTECTED_PORTS))?;
        }
        Ok(())
    }
}

fn key(network: Network) -> Key<Address> {
    Key::new(network.length().into(), network.first())
}

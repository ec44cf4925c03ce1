//! The host's destinations: its addresses, its listening ports, and the payload policies of ports.

use std::collections::BTreeSet;

use aya::maps::{Array, MapData};
use tcpguard_common::{
    abi::{
        listening::{CLOSED, LISTENING},
        local_addresses,
        names::map,
    },
    address::Address,
};

use super::super::DatapathError;

/// Writes the host's own addresses.
pub struct LocalAddresses {
    map: Array<MapData, local_addresses::Set>,
    written: Option<Box<[local_addresses::Set; local_addresses::SETS]>>,
}

impl LocalAddresses {
    pub(super) const fn new(map: Array<MapData, local_addresses::Set>) -> Self {
        Self { map, written: None }
    }

    /// Sets the host's addresses. Returns false, without writing, if they do not fit: every destination must then
    /// count as the host's.
    ///
    /// # Errors
    /// Returns an error if the map cannot be written.
    pub fn set(&mut self, addresses: &BTreeSet<Address>) -> Result<bool, DatapathError> {
        let Some(sets) = local_addresses::sets(addresses.iter().copied()) else { return Ok(false) };
        for (index, set) in (0..).zip(&sets) {
            let is_written = self.written.as_ref().is_some_and(|written| written[index as usize] == *set);
            if !is_written {
                self.map.set(index, set, 0).map_err(DatapathError::map(map::LOCAL_ADDRESSES))?;
            }
        }
        self.written = Some(Box::new(sets));
        Ok(true)
    }
}

/// Maintains the set of ports with a listener. The datapath itself notices when listeners open and close; this
/// corrects what it cannot see.
pub struct ListeningPorts {
    map: Array<MapData, u64>,
    open: BTreeSet<u16>,
}

impl ListeningPorts {
    pub(super) const fn new(map: Array<MapData, u64>) -> Self {
        Self { map, open: BTreeSet::new() }
    }

    /// Sets the ports that have a listener.
    ///
    /// # Errors
    /// Returns an error if the map cannot be read or written.
    pub fn set(&mut self, open: BTreeSet<u16>) -> Result<(), DatapathError> {
        for port in &open {
            self.change(*port, |state| state != LISTENING, LISTENING)?;
        }
        for port in self.open.difference(&open).copied().collect::<Vec<_>>() {
            self.change(port, |state| state == LISTENING, CLOSED)?;
        }
        self.open = open;
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

//! What came to which port.

use std::collections::BTreeMap;

use aya::maps::{HashMap, MapData};
use tcpguard_common::layout::{PORT_SLABS, PORTS_PER_SLAB, PortHandshakes, PortSlab, map};

use super::{super::DatapathError, PerCpu};

/// Reads the accounts of ports.
pub struct PortMap {
    syn: PerCpu<PortSlab>,
    handshakes: HashMap<MapData, u16, PortHandshakes>,
}

/// The account of one port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortTotals {
    /// SYNs.
    pub syn: u64,
    /// Handshakes completed.
    pub completed: u64,
    /// SYN-ACKs sent again.
    pub retried: u64,
}

impl PortMap {
    pub(super) const fn new(syn: PerCpu<PortSlab>, handshakes: HashMap<MapData, u16, PortHandshakes>) -> Self {
        Self { syn, handshakes }
    }

    /// The ports that have any account.
    ///
    /// # Errors
    /// Where a map cannot be read.
    pub fn read(&self) -> Result<BTreeMap<u16, PortTotals>, DatapathError> {
        let mut ports = BTreeMap::<u16, PortTotals>::new();
        for slab in 0..PORT_SLABS {
            let index = u32::try_from(slab).unwrap_or(u32::MAX);
            let cpus = self.syn.get(&index, 0).map_err(DatapathError::map(map::SYN_BY_PORT))?;
            for counts in cpus.iter() {
                for (offset, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
                    let port = u16::try_from(slab * PORTS_PER_SLAB + offset).unwrap_or(u16::MAX);
                    ports.entry(port).or_default().syn += count;
                }
            }
        }
        for entry in self.handshakes.iter() {
            let (port, handshakes) = entry.map_err(DatapathError::map(map::HANDSHAKES_BY_PORT))?;
            let totals = ports.entry(port).or_default();
            totals.completed = handshakes.completed;
            totals.retried = handshakes.retried;
        }
        Ok(ports)
    }
}

//! SYNs and handshakes per port.

use std::collections::BTreeMap;

use aya::maps::{HashMap, MapData};
use tcpguard_common::abi::{
    names::map,
    port::{PORT_SLABS, PORTS_PER_SLAB, PortHandshakes, PortSlab, PortSyns},
};

use super::{super::DatapathError, PerCpu};

/// Reads the per-port accounts.
pub struct PortMap {
    syn: PerCpu<PortSlab>,
    handshakes: HashMap<MapData, u16, PortHandshakes>,
}

impl PortMap {
    pub(super) const fn new(syn: PerCpu<PortSlab>, handshakes: HashMap<MapData, u16, PortHandshakes>) -> Self {
        Self { syn, handshakes }
    }

    /// Returns the SYN counts of the ports of one slab (0 to [`PORT_SLABS`] - 1) that received any.
    ///
    /// # Errors
    /// Returns an error if the map cannot be read.
    pub fn read_syn(&self, slab: usize) -> Result<BTreeMap<u16, PortSyns>, DatapathError> {
        let index = u32::try_from(slab % PORT_SLABS).unwrap_or(0);
        let cpus = self.syn.get(&index, 0).map_err(DatapathError::map(map::SYN_BY_PORT))?;
        let mut ports = BTreeMap::<u16, PortSyns>::new();
        for counts in cpus.iter() {
            for (offset, count) in counts.iter().enumerate().filter(|(_, count)| count.syn > 0) {
                let port = u16::try_from(slab * PORTS_PER_SLAB + offset).unwrap_or(u16::MAX);
                let total = ports.entry(port).or_default();
                total.syn += count.syn;
                total.not_begun += count.not_begun;
                total.restrained += count.restrained;
                total.challenged += count.challenged;
            }
        }
        Ok(ports)
    }

    /// Returns the outcome of handshakes, for ports that completed one or retransmitted a SYN-ACK.
    ///
    /// # Errors
    /// Returns an error if the map cannot be read.
    pub fn read_handshakes(&self) -> Result<BTreeMap<u16, PortHandshakes>, DatapathError> {
        self.handshakes.iter().collect::<Result<_, _>>().map_err(DatapathError::map(map::HANDSHAKES_BY_PORT))
    }
}

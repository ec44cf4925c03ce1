//! SYNs and handshakes per port.

use std::collections::BTreeMap;

use aya::maps::{Array, MapData};
use tcpguard_common::abi::{
    names::map,
    port::{PORT_SLABS, PORTS_PER_SLAB, PortHandshakes, PortSet, PortSlab, PortSyns, place_in_set},
};

use super::{super::DatapathError, PerCpu};

/// Reads the per-port accounts.
pub struct PortMap {
    syn: PerCpu<PortSlab>,
    handshakes: Array<MapData, PortHandshakes>,
    in_use: Array<MapData, PortSet>,
}

impl PortMap {
    pub(super) const fn new(
        syn: PerCpu<PortSlab>,
        handshakes: Array<MapData, PortHandshakes>,
        in_use: Array<MapData, PortSet>,
    ) -> Self {
        Self { syn, handshakes, in_use }
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
        let in_use = self.in_use.get(&0, 0).map_err(DatapathError::map(map::PORTS_IN_USE))?;
        let is_in_use = |port: &u16| {
            let (word, bit) = place_in_set(*port);
            in_use.get(word).is_some_and(|word| word & bit != 0)
        };
        let handshakes = |port: u16| self.handshakes.get(&port.into(), 0).map(|handshakes| (port, handshakes));
        let ports = (0..=u16::MAX).filter(is_in_use).map(handshakes);
        ports.collect::<Result<_, _>>().map_err(DatapathError::map(map::HANDSHAKES_BY_PORT))
    }
}

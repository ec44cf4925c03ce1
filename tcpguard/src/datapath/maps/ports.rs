//! SYNs and handshakes per port.

use aya::maps::{Array, IterableMap, MapData};
use tcpguard_common::abi::{
    names::map,
    port::{HandshakeSlab, PORT_SLABS, PORTS_PER_SLAB, PortHandshakes, PortMark, PortSlab, PortSyns},
};

use super::{
    super::{DatapathError, batch},
    ByCpu,
};

/// Reads the per-port accounts.
pub struct PortMap {
    syn: ByCpu<PortSlab>,
    handshakes: Array<MapData, HandshakeSlab>,
    marks: Array<MapData, PortMark>,
}

impl PortMap {
    pub(super) const fn new(
        syn: ByCpu<PortSlab>,
        handshakes: Array<MapData, HandshakeSlab>,
        marks: Array<MapData, PortMark>,
    ) -> Self {
        Self { syn, handshakes, marks }
    }

    /// Returns when each slab changed last, in their order.
    ///
    /// # Errors
    /// Returns an error if the map cannot be read.
    pub fn read_marks(&self) -> Result<Vec<PortMark>, DatapathError> {
        batch::read_elements(IterableMap::map(&self.marks), 0, PORT_SLABS as u32)
            .map_err(|source| DatapathError::Batch { map: map::PORT_MARKS, source })
    }

    /// Returns the SYN counts of the places ([`tcpguard_common::abi::place`]) of one slab (0 to [`PORT_SLABS`] - 1) that received any, in ascending order.
    ///
    /// # Errors
    /// Returns an error if the map cannot be read.
    pub fn read_syn(&self, slab: usize) -> Result<Vec<(u32, PortSyns)>, DatapathError> {
        let cpus = self.syn.read(index(slab))?;
        let sum = |index: usize| {
            cpus.iter().fold(PortSyns::default(), |sum, cpu| PortSyns {
                syn: sum.syn + cpu[index].syn,
                not_begun: sum.not_begun + cpu[index].not_begun,
                restrained: sum.restrained.wrapping_add(cpu[index].restrained),
                challenged: sum.challenged + cpu[index].challenged,
                ..sum
            })
        };
        let sums = (0..PORTS_PER_SLAB).map(|index| (place(slab, index), sum(index)));
        Ok(sums.filter(|(_, sum)| sum.syn > 0).collect())
    }

    /// Returns the outcome of handshakes, for the places of one slab that completed one, had one reset or retransmitted a
    /// SYN-ACK, in ascending order.
    ///
    /// # Errors
    /// Returns an error if the map cannot be read.
    pub fn read_handshakes(&self, slab: usize) -> Result<Vec<(u32, PortHandshakes)>, DatapathError> {
        let all = self.handshakes.get(&index(slab), 0).map_err(DatapathError::map(map::HANDSHAKES_BY_PORT))?;
        let by_port = all.iter().enumerate().map(|(index, handshakes)| (place(slab, index), *handshakes));
        Ok(by_port.filter(|(_, handshakes)| *handshakes != PortHandshakes::default()).collect())
    }
}

fn index(slab: usize) -> u32 {
    u32::try_from(slab % PORT_SLABS).unwrap_or(0)
}

fn place(slab: usize, index: usize) -> u32 {
    (slab * PORTS_PER_SLAB + index) as u32
}

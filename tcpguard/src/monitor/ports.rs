//! The account of each port: the SYNs the datapath counted, the kernel's half-open handshakes, and the listeners'
//! backlog.

use std::collections::{BTreeMap, BTreeSet};

use tcpguard_common::abi::port::{PORT_SLABS, PORTS_PER_SLAB, PortHandshakes, PortSyns};

use crate::{
    datapath::{DatapathError, maps::PortMap},
    kernel::{HalfOpenTable, Listener},
};

/// How many ports without a listener are reported: those with the most SYNs.
const MAX_CLOSED_PORTS: usize = 32;

/// A queue is about to overflow when this share of the backlog is half open.
const FULL_SHARE: f64 = 0.5;

/// The account of one port. Counts are totals of the datapath unless stated otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortSnapshot {
    /// The port, in host byte order.
    pub port: u16,
    /// SYNs received, including retransmits and dropped ones.
    pub syn: u64,
    /// Half-open handshakes in the kernel at present (`SYN_RECV`).
    pub half_open: u64,
    /// SYN-ACKs retransmitted.
    pub retried: u64,
    /// Handshakes completed.
    pub completed: u64,
    /// The sum of its listeners' backlogs; 0 if it has no listener.
    pub backlog: u64,
    /// Completed connections waiting to be accepted, over all its listeners.
    pub accept_queue: u64,
    /// Handshakes begun: SYNs without retransmits, dropped SYNs and SYNs to a port that is closed for a moment.
    pub begun: u64,
    /// SYNs dropped because of a judgement: blocks, limits, challenges and SYNs with data.
    pub restrained: u64,
    /// Handshakes completed, or reset while half open.
    pub ended: u64,
    /// SYNs selected to be answered with a cookie.
    pub challenged: u64,
    /// Handshakes completed on this host by sources that were not proven before.
    pub proved: u64,
    /// Handshakes completed on this host over IPv4 and IPv6, excluding those completed in containers.
    pub here: [u64; 2],
    /// Cookies returned by clients over IPv4 and IPv6.
    pub returned: [u64; 2],
    /// Cookies returned, of which those of one network count once.
    pub returned_networks: u64,
    /// The accept queue of at least one listener is full: the application accepts too slowly.
    pub is_full: bool,
}

impl PortSnapshot {
    /// Returns `true` if the queue of the port's listeners is about to overflow.
    pub fn is_queue_filling(&self) -> bool {
        self.backlog > 0 && self.half_open as f64 >= FULL_SHARE * self.backlog as f64
    }

    /// Returns the number of handshakes requested, including SYNs dropped because of a judgement.
    pub const fn attempts(&self) -> u64 {
        self.begun + self.restrained
    }
}

/// Reads the SYN counts one slab at a time, since they are per CPU: slabs of ports with a listener or thresholds of
/// their own with every tick, the others in turn.
pub struct PortReader {
    map: PortMap,
    slabs: Vec<BTreeMap<u16, PortSyns>>,
    next: usize,
    /// Ports that belong to a service with thresholds of its own.
    services: BTreeSet<u16>,
}

impl PortReader {
    pub(super) fn new(map: PortMap, services: BTreeSet<u16>) -> Self {
        Self { map, slabs: vec![BTreeMap::new(); PORT_SLABS], next: 0, services }
    }

    pub(super) fn set_services(&mut self, services: BTreeSet<u16>) {
        self.services = services;
    }

    /// Reads the slabs that are due in this tick.
    pub(super) fn advance(&mut self, listeners: &[Listener]) -> Result<(), DatapathError> {
        let ports = listeners.iter().map(|listener| listener.local.port()).chain(self.services.iter().copied());
        let mut due: BTreeSet<usize> = ports.map(|port| usize::from(port) / PORTS_PER_SLAB).collect();
        due.insert(self.next);
        self.next = (self.next + 1) % PORT_SLABS;
        for slab in due {
            self.slabs[slab] = self.map.read_syn(slab)?;
        }
        Ok(())
    }

    /// Returns the account of every port that has a listener or belongs to a service, and of the busiest other ports.
    pub(super) fn report(
        &self,
        listeners: &[Listener],
        half_open: &HalfOpenTable,
    ) -> Result<Vec<PortSnapshot>, DatapathError> {
        let handshakes = self.map.read_handshakes()?;
        let syn = self.slabs.iter().flatten().map(|(port, syn)| (*port, *syn));
        Ok(assemble(syn, &handshakes, listeners, half_open, &self.services))
    }
}

fn assemble(
    syn: impl Iterator<Item = (u16, PortSyns)>,
    handshakes: &BTreeMap<u16, PortHandshakes>,
    listeners: &[Listener],
    half_open: &HalfOpenTable,
    services: &BTreeSet<u16>,
) -> Vec<PortSnapshot> {
    let mut ports = BTreeMap::<u16, PortSnapshot>::new();
    for (port, syn) in syn {
        let snapshot = ports.entry(port).or_default();
        (snapshot.syn, snapshot.restrained, snapshot.challenged) = (syn.syn, syn.restrained, syn.challenged);
        snapshot.begun = syn.syn.saturating_sub(syn.not_begun);
    }
    for (port, totals) in handshakes {
        let snapshot = ports.entry(*port).or_default();
        (snapshot.completed, snapshot.retried) = (totals.completed, totals.retried);
        snapshot.proved = totals.proved;
        snapshot.here = [totals.here_ipv4, totals.here_ipv6];
        snapshot.returned = [totals.returned_ipv4, totals.returned_ipv6];
        snapshot.returned_networks = totals.returned_networks;
        snapshot.ended = totals.completed + totals.reset;
    }
    for (port, counts) in &half_open.by_port {
        ports.entry(*port).or_default().half_open = counts.total as u64;
    }
    for listener in listeners {
        let snapshot = ports.entry(listener.local.port()).or_default();
        snapshot.backlog += u64::from(listener.backlog);
        snapshot.accept_queue += u64::from(listener.accept_queue);
        snapshot.is_full |= listener.is_full();
    }
    let (mut open, mut closed): (Vec<_>, Vec<_>) = ports
        .into_iter()
        .map(|(port, snapshot)| PortSnapshot { port, ..snapshot })
        .partition(|snapshot| snapshot.backlog > 0 || services.contains(&snapshot.port));
    closed.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.syn));
    closed.truncate(MAX_CLOSED_PORTS);
    open.append(&mut closed);
    open.sort_by_key(|snapshot| snapshot.port);
    open
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::kernel::HalfOpen;

    #[test]
    fn all_that_is_known_of_a_port_comes_together() {
        let mut half_open = HalfOpenTable::default();
        half_open.add(HalfOpen {
            local: "198.18.0.1:443".parse().expect("an address"),
            remote: "198.18.0.9:4000".parse().expect("an address"),
            age: Duration::ZERO,
            retransmits: 1,
        });
        let listener = |address: &str| Listener::new(address.parse().expect("an address"), 1, 128);
        let handshakes =
            BTreeMap::from([(443, PortHandshakes { completed: 5, retried: 2, reset: 1, ..PortHandshakes::default() })]);
        let ports = assemble(
            [
                (443, PortSyns { syn: 9, not_begun: 2, restrained: 1, ..PortSyns::default() }),
                (81, PortSyns { syn: 7, not_begun: 0, restrained: 0, ..PortSyns::default() }),
            ]
            .into_iter(),
            &handshakes,
            &[listener("0.0.0.0:443"), listener("[::]:443")],
            &half_open,
            &BTreeSet::new(),
        );
        assert_eq!(
            ports,
            [
                PortSnapshot { port: 81, syn: 7, begun: 7, ..PortSnapshot::default() },
                PortSnapshot {
                    port: 443,
                    syn: 9,
                    half_open: 1,
                    retried: 2,
                    completed: 5,
                    backlog: 256,
                    accept_queue: 2,
                    begun: 7,
                    restrained: 1,
                    ended: 6,
                    ..PortSnapshot::default()
                },
            ]
        );
    }

    #[test]
    fn a_scan_does_not_fill_the_report() {
        let syn =
            (1..=60_000).map(|port| (port, PortSyns { syn: 1, not_begun: 0, restrained: 0, ..PortSyns::default() }));
        let ports = assemble(syn, &BTreeMap::new(), &[], &HalfOpenTable::default(), &BTreeSet::new());
        assert_eq!(ports.len(), MAX_CLOSED_PORTS);
    }
}

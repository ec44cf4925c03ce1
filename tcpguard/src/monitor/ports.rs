//! The account of each port: the SYNs the datapath counted, the kernel's half-open handshakes, and the listeners'
//! backlog.

use std::{collections::BTreeSet, time::Instant};

use tcpguard_common::abi::{
    place,
    port::{PORT_SLABS, PROTECTED_SLAB, PortHandshakes, PortSyns, place_in_slabs},
};

use crate::{
    datapath::{DatapathError, maps::PortMap},
    kernel::{HalfOpenTable, Listener, Listeners},
};

use super::redirected::Redirected;

/// How many ports without a listener are reported: those with the most SYNs.
const MAX_CLOSED_PORTS: usize = 32;

/// A queue is about to overflow when this share of the backlog is half open.
const FULL_SHARE: f64 = 0.5;

/// The account of one port. Counts are totals of the datapath unless stated otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortSnapshot {
    /// The port, in host byte order; of a protected network's, its index among all protected ports.
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
    /// SYNs dropped because of a judgement (blocks, limits, challenges and SYNs with data), less those that came back and
    /// began a handshake. It may be negative (wrapping).
    pub restrained: u64,
    /// Handshakes completed or reset while half open, and those of `one_way` and `refused`.
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
    /// Other hosts can reach one of its listeners.
    pub is_reachable: bool,
    /// It has no listener, and SYN-ACKs are sent from it: it is redirected.
    pub is_redirected: bool,
    /// SYN-ACKs sent by servers behind this host, without retransmits.
    pub replied: u64,
    /// Handshakes whose client acknowledged a SYN-ACK that was not sent through this host.
    pub one_way: u64,
    /// Handshakes that ended by a reset before a SYN-ACK was sent.
    pub refused: u64,
}

impl PortSnapshot {
    /// Returns `true` if the queue of the port's listeners is about to overflow.
    pub fn is_queue_filling(&self) -> bool {
        self.backlog > 0 && self.half_open as f64 >= FULL_SHARE * self.backlog as f64
    }

    /// Returns the number of handshakes requested, including SYNs dropped because of a judgement.
    pub const fn attempts(&self) -> u64 {
        // Each SYN that is taken off `restrained` is one that has begun.
        self.begun.wrapping_add(self.restrained)
    }
}

/// Reads the accounts one slab at a time, and only those that changed.
pub struct PortReader {
    map: PortMap,
    slabs: Vec<Slab>,
    /// Ports that belong to a service with thresholds of its own.
    services: BTreeSet<u16>,
    /// How many ports protected networks have.
    protected: usize,
    redirected: Redirected,
    /// The listeners that were known when the busiest ports without one were found, by [`PortReader::advance`]'s `layout`.
    layout: Option<u64>,
    /// How many ticks are left in which every slab is read, whatever the marks tell.
    read_all: u32,
    /// The slab after the last one that was read in its turn.
    turn: usize,
}

/// What was read of one slab, by place in ascending order.
#[derive(Default)]
struct Slab {
    syn: Vec<(u32, PortSyns)>,
    handshakes: Vec<(u32, PortHandshakes)>,
    /// The busiest ports without a listener or a service, and their SYNs; `None` if they have to be found anew.
    closed: Option<Vec<(u64, u16)>>,
    /// One of its ports has a listener or belongs to a service.
    is_open: bool,
    /// It changed, and was not read since.
    is_behind: bool,
}

/// In so many ticks after a takeover every slab is read: the previous daemon's programs, which mark elsewhere, still count for
/// a moment.
const READ_ALL: u32 = 5;

/// So many of the slabs that changed and have no listener are read in one tick. SYNs to all ports would otherwise have all of
/// them read in each.
const SLABS_IN_TURN: usize = 4;

impl PortReader {
    pub(super) fn new(map: PortMap, services: BTreeSet<u16>, protected: usize) -> Self {
        let slabs = (0..PORT_SLABS).map(|_| Slab::default()).collect();
        let redirected = Redirected::default();
        Self { map, slabs, services, protected, redirected, layout: None, read_all: 0, turn: 0 }
    }

    pub(super) fn set_services(&mut self, services: BTreeSet<u16>, protected: usize) {
        (self.services, self.protected) = (services, protected);
        self.layout = None;
    }

    /// Reads what a previous daemon has counted.
    pub(super) const fn begin_after(&mut self) {
        self.read_all = READ_ALL;
    }

    /// Reads the slabs that changed: those with a listener at once, others in turn. `tick` is the number of the last tick that
    /// granted a lease.
    ///
    /// `layout` changes whenever a listener opens or closes.
    pub(super) fn advance(&mut self, tick: u32, listeners: &Listeners, layout: u64) -> Result<(), DatapathError> {
        if self.layout.replace(layout) != Some(layout) {
            self.slabs.iter_mut().for_each(|slab| (slab.closed, slab.is_open) = (None, false));
            let open = listeners.by_port().map(|(port, _)| port).chain(self.services.iter().copied());
            let open = open.chain(self.redirected.ports().iter().copied());
            open.for_each(|port| self.slabs[place_in_slabs(port.into()).0].is_open = true);
            self.slabs[PROTECTED_SLAB].is_open = true;
        }
        let marks = self.map.read_marks()?;
        let reads_all = self.read_all > 0;
        self.read_all = self.read_all.saturating_sub(1);
        // A slab may have changed before the last lease was granted, and after it was read.
        let is_due = |mark: u32| reads_all || mark == tick || mark == tick.wrapping_sub(1);
        for ((index, slab), mark) in self.slabs.iter_mut().enumerate().zip(marks) {
            slab.is_behind |= is_due(mark.syn);
            if slab.is_behind && (slab.is_open || reads_all) {
                slab.read_syn(&self.map, index)?;
            }
            if is_due(mark.handshakes) {
                slab.handshakes = self.map.read_handshakes(index)?;
                self.redirected.note(&slab.handshakes, reads_all, Instant::now());
            }
        }
        for index in turns(&self.slabs, &mut self.turn) {
            self.slabs[index].read_syn(&self.map, index)?;
        }
        if self.redirected.has_changed(listeners, Instant::now()) {
            self.layout = None;
        }
        Ok(())
    }

    /// Returns the account of every port that has a listener, is redirected, belongs to a service or has half-open handshakes, and of the
    /// busiest other ports, in ascending order.
    pub(super) fn report(&mut self, listeners: &Listeners, half_open: &HalfOpenTable) -> Vec<PortSnapshot> {
        let mut ports = assemble(&mut self.slabs, listeners, half_open, &self.services, self.redirected.ports());
        ports.iter_mut().for_each(|port| port.is_redirected = self.redirected.ports().contains(&port.port));
        ports
    }

    /// Returns the accounts of the ports of protected networks, by their index.
    pub(super) fn protected(&self) -> Vec<PortSnapshot> {
        let account = |index| {
            let mut port = PortSnapshot { port: index as u16, ..PortSnapshot::default() };
            if let Some(place) = place::of_protected(index) {
                port.fill_counts(&self.slabs[PROTECTED_SLAB], place);
            }
            port
        };
        (0..self.protected).map(account).collect()
    }

    /// Returns the ports that are redirected.
    pub(super) const fn redirected(&self) -> &BTreeSet<u16> {
        self.redirected.ports()
    }
}

/// Returns which slabs are read in their turn. The first is `next` or comes after it; `next` becomes the one after the last.
fn turns(slabs: &[Slab], next: &mut usize) -> Vec<usize> {
    let indices = (*next..slabs.len()).chain(0..*next);
    let turns: Vec<usize> = indices.filter(|index| slabs[*index].is_behind).take(SLABS_IN_TURN).collect();
    *next = turns.last().map_or(*next, |last| (last + 1) % slabs.len());
    turns
}

fn assemble(
    slabs: &mut [Slab],
    listeners: &Listeners,
    half_open: &HalfOpenTable,
    services: &BTreeSet<u16>,
    redirected: &BTreeSet<u16>,
) -> Vec<PortSnapshot> {
    let is_open =
        |port: u16| services.contains(&port) || redirected.contains(&port) || !listeners.of_port(port).is_empty();
    let mut ports: Vec<PortSnapshot> = listeners.by_port().map(|(port, of_port)| listening(port, of_port)).collect();
    let others = services
        .iter()
        .chain(redirected)
        .chain(half_open.by_port.keys())
        .filter(|port| listeners.of_port(**port).is_empty());
    ports.extend(
        others.collect::<BTreeSet<_>>().into_iter().map(|port| PortSnapshot { port: *port, ..PortSnapshot::default() }),
    );
    let of_host = slabs.iter_mut().take(PROTECTED_SLAB);
    let closed = busiest(of_host.flat_map(|slab| slab.closed(is_open)).copied().collect());
    ports.extend(closed.iter().map(|(_, port)| PortSnapshot { port: *port, ..PortSnapshot::default() }));
    ports.sort_unstable_by_key(|port| port.port);
    ports.dedup_by_key(|port| port.port);
    for port in &mut ports {
        port.fill(slabs, half_open);
    }
    ports
}

/// Returns the ports with the most SYNs.
fn busiest(mut ports: Vec<(u64, u16)>) -> Vec<(u64, u16)> {
    ports.sort_unstable_by(|left, right| right.cmp(left));
    ports.truncate(MAX_CLOSED_PORTS);
    ports
}

impl Slab {
    fn read_syn(&mut self, map: &PortMap, index: usize) -> Result<(), DatapathError> {
        self.syn = map.read_syn(index)?;
        (self.closed, self.is_behind) = (None, false);
        Ok(())
    }

    fn closed(&mut self, is_open: impl Fn(u16) -> bool) -> &[(u64, u16)] {
        self.closed.get_or_insert_with(|| {
            let ports = self.syn.iter().filter_map(|(place, syn)| Some((syn.syn, u16::try_from(*place).ok()?)));
            busiest(ports.filter(|(_, port)| !is_open(*port)).collect())
        })
    }
}

/// Returns the account of a port as far as its listeners tell it.
fn listening(port: u16, listeners: &[Listener]) -> PortSnapshot {
    PortSnapshot {
        port,
        backlog: listeners.iter().map(|listener| u64::from(listener.backlog)).sum(),
        accept_queue: listeners.iter().map(|listener| u64::from(listener.accept_queue)).sum(),
        is_full: listeners.iter().any(Listener::is_full),
        is_reachable: listeners.iter().any(Listener::is_reachable),
        ..PortSnapshot::default()
    }
}

impl PortSnapshot {
    /// Adds what was counted.
    fn fill(&mut self, slabs: &[Slab], half_open: &HalfOpenTable) {
        let place = u32::from(self.port);
        if let Some(slab) = slabs.get(place_in_slabs(place).0) {
            self.fill_counts(slab, place);
        }
        self.half_open = half_open.by_port.get(&self.port).map_or(0, |counts| counts.total as u64);
    }

    fn fill_counts(&mut self, slab: &Slab, place: u32) {
        if let Some(syn) = find(&slab.syn, place) {
            (self.syn, self.restrained, self.challenged) = (syn.syn, syn.restrained, syn.challenged);
            self.begun = syn.syn.saturating_sub(syn.not_begun);
        }
        if let Some(totals) = find(&slab.handshakes, place) {
            (self.completed, self.retried, self.proved) = (totals.completed, totals.retried, totals.proved);
            self.here = [totals.here_ipv4, totals.here_ipv6];
            self.returned = [totals.returned_ipv4, totals.returned_ipv6];
            self.returned_networks = totals.returned_networks;
            (self.replied, self.one_way) = (totals.replied, totals.one_way);
            self.refused = totals.refused;
            self.ended = totals.completed + totals.reset + totals.one_way + totals.refused;
        }
    }
}

fn find<T>(by_place: &[(u32, T)], wanted: u32) -> Option<&T> {
    let index = by_place.binary_search_by_key(&wanted, |(place, _)| *place).ok()?;
    Some(&by_place[index].1)
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
        let slab = Slab {
            syn: vec![
                (81, PortSyns { syn: 7, not_begun: 0, restrained: 0, ..PortSyns::default() }),
                (443, PortSyns { syn: 9, not_begun: 2, restrained: 1, ..PortSyns::default() }),
            ],
            handshakes: vec![(443, PortHandshakes { completed: 5, retried: 2, reset: 1, ..PortHandshakes::default() })],
            ..Slab::default()
        };
        let listeners = Listeners::new(vec![listener("0.0.0.0:443"), listener("[::]:443")]);
        let ports = assemble(&mut [slab], &listeners, &half_open, &BTreeSet::from([22]), &BTreeSet::new());
        assert_eq!(
            ports,
            [
                PortSnapshot { port: 22, ..PortSnapshot::default() },
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
                    is_reachable: true,
                    ..PortSnapshot::default()
                },
            ]
        );
    }

    #[test]
    fn slabs_without_a_listener_are_read_in_turn() {
        let mut slabs: Vec<Slab> = (0..128).map(|_| Slab { is_behind: true, ..Slab::default() }).collect();
        let mut next = 126;
        assert_eq!((turns(&slabs, &mut next), next), (vec![126, 127, 0, 1], 2));
        // The first ones change again and again, and hold none of the others up.
        let mut read = BTreeSet::new();
        for _ in 0..32 {
            for index in turns(&slabs, &mut next) {
                slabs[index].is_behind = index < 2 * SLABS_IN_TURN;
                read.insert(index);
            }
        }
        assert_eq!(read, (0..128).collect());
        slabs.iter_mut().for_each(|slab| slab.is_behind = false);
        assert!(turns(&slabs, &mut next).is_empty());
    }

    #[test]
    fn a_scan_does_not_fill_the_report() {
        let slab = |index: u32| Slab {
            syn: (0..512)
                .map(|place| (512 * index + place, PortSyns { syn: u64::from(place), ..PortSyns::default() }))
                .collect(),
            ..Slab::default()
        };
        let mut slabs: Vec<Slab> = (0..128).map(slab).collect();
        let ports =
            assemble(&mut slabs, &Listeners::default(), &HalfOpenTable::default(), &BTreeSet::new(), &BTreeSet::new());
        assert_eq!(ports.len(), MAX_CLOSED_PORTS);
        assert!(ports.iter().all(|port| port.syn == 511 && port.port % 512 == 511), "the busiest of them");
    }
}

//! The account of each port: the SYNs the datapath counted, the kernel's half-open handshakes, and the listeners' backlog.
//!
//! A host may have tens of thousands of listeners. The accounts are kept in parts, of which a tick replaces only those that
//! changed, so that whoever follows all ports looks at the changed ones only.

use std::sync::Arc;

use tcpguard_common::abi::port::{PROTECTED_SLAB, place_in_slabs};

/// A queue is about to overflow when this share of the backlog is half open.
const FULL_SHARE: f64 = 0.5;
/// The share of a listener's queue that may fill up before the daemon looks again.
const QUEUE_SHARE: u64 = 2;
/// Listeners with a shorter queue are not waited for: a few clients at a time fill it.
const TELLING_BACKLOG: u64 = 64;
/// Each part has the ports of one slab of the datapath. Those of protected networks, which come after them, have no part.
const PARTS: usize = PROTECTED_SLAB;

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

/// The accounts of ports, in ascending order. A clone shares them.
#[derive(Clone, Debug)]
pub struct Ports {
    /// By the slab of their ports ([`place_in_slabs`]).
    parts: Vec<Arc<Part>>,
}

/// The accounts of neighbouring ports, and what is asked of them in every tick.
#[derive(Debug, Default)]
struct Part {
    accounts: Vec<PortSnapshot>,
    /// The places of those that are busy ([`Ports::busy`]).
    busy: Vec<usize>,
    /// See [`Ports::queue_room`].
    queue_room: Option<u64>,
}

impl Default for Ports {
    fn default() -> Self {
        Self { parts: vec![Arc::default(); PARTS] }
    }
}

impl Ports {
    /// Replaces the accounts of the part that begins with the port `first` by `accounts`, which are in ascending order.
    pub(super) fn replace(&mut self, first: u16, accounts: Vec<PortSnapshot>) {
        let part = &mut self.parts[part_of(first)];
        if part.accounts != accounts {
            *part = Arc::new(Part::of(accounts));
        }
    }

    /// Returns the account of one port.
    pub fn get(&self, port: u16) -> Option<&PortSnapshot> {
        self.parts[part_of(port)].get(port)
    }

    /// Returns all accounts.
    pub fn iter(&self) -> impl Iterator<Item = &PortSnapshot> {
        self.parts.iter().flat_map(|part| &part.accounts)
    }

    /// Returns the accounts that are not the same as `before`.
    pub fn changed_since<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'a PortSnapshot> {
        let changed = self.parts.iter().zip(&before.parts).filter(|(now, before)| !Arc::ptr_eq(now, before));
        changed
            .flat_map(|(now, before)| now.accounts.iter().filter(|account| before.get(account.port) != Some(account)))
    }

    /// Returns the accounts of ports with half-open handshakes in the kernel, or with a full accept queue.
    pub fn busy(&self) -> impl Iterator<Item = &PortSnapshot> {
        self.parts.iter().flat_map(|part| part.busy.iter().filter_map(|place| part.accounts.get(*place)))
    }

    /// Returns how many more handshakes may be half open until the queue of some listener that other hosts can reach is half
    /// full; `None` if there is no listener with a queue of some length.
    pub fn queue_room(&self) -> Option<u64> {
        self.parts.iter().filter_map(|part| part.queue_room).min()
    }
}

impl FromIterator<PortSnapshot> for Ports {
    fn from_iter<T: IntoIterator<Item = PortSnapshot>>(accounts: T) -> Self {
        let mut all: Vec<PortSnapshot> = accounts.into_iter().collect();
        all.sort_unstable_by_key(|account| account.port);
        let mut ports = Self::default();
        for part in all.chunk_by(|left, right| part_of(left.port) == part_of(right.port)) {
            part.first().into_iter().for_each(|first| ports.replace(first.port, part.to_vec()));
        }
        ports
    }
}

impl Part {
    fn of(accounts: Vec<PortSnapshot>) -> Self {
        let is_busy = |port: &PortSnapshot| port.half_open > 0 || port.is_full;
        let busy = (0..).zip(&accounts).filter(|(_, port)| is_busy(port)).map(|(place, _)| place).collect();
        let listening = accounts.iter().filter(|port| port.backlog >= TELLING_BACKLOG && port.is_reachable);
        let queue_room = listening.map(|port| (port.backlog / QUEUE_SHARE).saturating_sub(port.half_open)).min();
        Self { busy, queue_room, accounts }
    }

    fn get(&self, port: u16) -> Option<&PortSnapshot> {
        let place = self.accounts.binary_search_by_key(&port, |account| account.port).ok()?;
        self.accounts.get(place)
    }
}

fn part_of(port: u16) -> usize {
    place_in_slabs(port.into()).0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(port: u16, syn: u64) -> PortSnapshot {
        PortSnapshot { port, syn, ..PortSnapshot::default() }
    }

    fn changed(now: &Ports, before: &Ports) -> Vec<u16> {
        now.changed_since(before).map(|account| account.port).collect()
    }

    #[test]
    fn accounts_are_found_by_port_and_come_in_order() {
        let ports: Ports = [port(65_535, 1), port(80, 2), port(0, 3), port(511, 4), port(512, 5)].into_iter().collect();
        let found: Vec<(u16, u64)> = ports.iter().map(|account| (account.port, account.syn)).collect();
        assert_eq!(found, [(0, 3), (80, 2), (511, 4), (512, 5), (65_535, 1)]);
        assert_eq!([80, 81, 65_535].map(|wanted| ports.get(wanted).map(|port| port.syn)), [Some(2), None, Some(1)]);
        assert_eq!(Ports::default().iter().count(), 0);
    }

    #[test]
    fn only_what_changed_is_visited() {
        let mut ports: Ports = [port(22, 1), port(80, 1), port(600, 1)].into_iter().collect();
        let before = ports.clone();
        assert_eq!(changed(&ports, &Ports::default()), [22, 80, 600]);
        ports.replace(0, vec![port(22, 1), port(80, 1)]);
        assert!(changed(&ports, &before).is_empty());
        ports.replace(0, vec![port(22, 1), port(79, 7), port(80, 2)]);
        assert_eq!(changed(&ports, &before), [79, 80]);
        assert_eq!(before.get(80), Some(&port(80, 1)), "a clone keeps what it has");
        ports.replace(512, Vec::new());
        assert_eq!(changed(&ports, &before), [79, 80], "one that is gone has no account");
    }

    #[test]
    fn busy_ports_hold_handshakes_or_accept_none() {
        let held = PortSnapshot { half_open: 1, ..port(443, 0) };
        let full = PortSnapshot { is_full: true, ..port(25, 0) };
        let ports: Ports = [port(22, 9), held, full].into_iter().collect();
        assert_eq!(ports.busy().map(|account| account.port).collect::<Vec<_>>(), [25, 443]);
    }

    #[test]
    fn the_queue_with_least_room_counts_unless_it_is_short_or_local() {
        let listener = |number, backlog, half_open, is_reachable| PortSnapshot {
            backlog,
            half_open,
            is_reachable,
            ..port(number, 0)
        };
        let room = |ports: &[PortSnapshot]| ports.iter().copied().collect::<Ports>().queue_room();
        assert_eq!(
            room(&[listener(1, 4096, 0, true), listener(600, 128, 30, true), listener(3, 128, 60, false)]),
            Some(34)
        );
        assert_eq!(room(&[listener(1, 64, 10, true), listener(2, 63, 31, true)]), Some(22));
        assert_eq!(room(&[listener(1, 128, 64, true)]), Some(0));
        assert_eq!(room(&[listener(1, 16, 0, true)]), None);
    }
}

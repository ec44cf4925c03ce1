//! The accounts of ports, assembled from what the datapath counted, the kernel's half-open handshakes and its listeners: in
//! each tick, those of slabs of which something changed.

use std::{collections::BTreeSet, ops::RangeInclusive, sync::Arc};

use tcpguard_common::abi::{
    place,
    port::{PORT_SLABS, PORTS_PER_SLAB, PROTECTED_SLAB, PortHandshakes, PortSyns, place_in_slabs},
};

use super::ports::{PortSnapshot, Ports};
use crate::kernel::{HalfOpenTable, Listener, Listeners};

/// How many ports without a listener are reported: those with the most SYNs.
const MAX_CLOSED_PORTS: usize = 32;

/// The accounts, and what they were assembled from.
pub(super) struct Accounts {
    slabs: Vec<Slab>,
    listeners: Arc<Listeners>,
    half_open: Arc<HalfOpenTable>,
    /// The reported ports that have no listener and belong to no service.
    closed: BTreeSet<u16>,
    ports: Ports,
}

/// What was counted in one slab, by place in ascending order.
#[derive(Default)]
struct Slab {
    syn: Vec<(u32, PortSyns)>,
    handshakes: Vec<(u32, PortHandshakes)>,
    /// The busiest ports without a listener or a service, and their SYNs; `None` if they have to be found anew.
    closed: Option<Vec<(u64, u16)>>,
    /// The accounts of its ports have to be assembled anew.
    is_stale: bool,
}

/// The ports that are reported whether or not they have a listener.
#[derive(Clone, Copy)]
pub(super) struct Named<'a> {
    /// Those of services with thresholds of their own.
    pub services: &'a BTreeSet<u16>,
    pub redirected: &'a BTreeSet<u16>,
}

impl Default for Accounts {
    fn default() -> Self {
        Self {
            slabs: (0..PORT_SLABS).map(|_| Slab::default()).collect(),
            listeners: Arc::default(),
            half_open: Arc::default(),
            closed: BTreeSet::new(),
            ports: Ports::default(),
        }
    }
}

impl Accounts {
    /// Replaces the counts of SYNs of a slab.
    pub fn set_syn(&mut self, slab: usize, syn: Vec<(u32, PortSyns)>) {
        let slab = &mut self.slabs[slab];
        (slab.syn, slab.closed, slab.is_stale) = (syn, None, true);
    }

    /// Replaces the outcome of the handshakes of a slab.
    pub fn set_handshakes(&mut self, slab: usize, handshakes: Vec<(u32, PortHandshakes)>) {
        let slab = &mut self.slabs[slab];
        (slab.handshakes, slab.is_stale) = (handshakes, true);
    }

    /// Has all accounts assembled anew: other ports have listeners, belong to services or are redirected.
    pub fn forget(&mut self) {
        self.slabs.iter_mut().for_each(|slab| (slab.closed, slab.is_stale) = (None, true));
    }

    /// Returns the account of every port that has a listener, is named or has half-open handshakes, and of the busiest other
    /// ports. Whoever calls it has called [`Accounts::forget`] if a listener opened or closed, or others are named.
    pub fn report(&mut self, listeners: &Arc<Listeners>, half_open: &Arc<HalfOpenTable>, named: Named) -> Ports {
        self.note_kernel(listeners, half_open);
        self.find_closed(named);
        let facts = Facts { listeners, half_open, named, closed: &self.closed };
        for (slab, range) in self.slabs.iter_mut().zip(ranges()) {
            if std::mem::take(&mut slab.is_stale) {
                self.ports.replace(*range.start(), facts.assemble(slab, &range));
            }
        }
        self.ports.clone()
    }

    /// Returns the accounts of so many ports of protected networks, by their index.
    pub fn protected(&self, number: usize) -> Vec<PortSnapshot> {
        let account = |index| {
            let mut port = PortSnapshot { port: index as u16, ..PortSnapshot::default() };
            if let Some(place) = place::of_protected(index) {
                port.fill_counts(&self.slabs[PROTECTED_SLAB], place);
            }
            port
        };
        (0..number).map(account).collect()
    }

    /// Finds which accounts change with what the kernel tells.
    fn note_kernel(&mut self, listeners: &Arc<Listeners>, half_open: &Arc<HalfOpenTable>) {
        let before = std::mem::replace(&mut self.listeners, Arc::clone(listeners));
        if !Arc::ptr_eq(&before, listeners) {
            listeners.by_port().for_each(|(port, _)| self.note_stale(port));
        }
        let before = std::mem::replace(&mut self.half_open, Arc::clone(half_open));
        if !Arc::ptr_eq(&before, half_open) {
            before.by_port.keys().chain(half_open.by_port.keys()).for_each(|port| self.note_stale(*port));
        }
    }

    /// Finds the busiest ports without a listener, if any may have changed.
    fn find_closed(&mut self, named: Named) {
        let of_host = &mut self.slabs[..PROTECTED_SLAB];
        if of_host.iter().all(|slab| slab.closed.is_some()) {
            return;
        }
        let is_open = |port: u16| named.has(port) || !self.listeners.of_port(port).is_empty();
        let busiest = busiest(of_host.iter_mut().flat_map(|slab| slab.closed(is_open)).copied().collect());
        let closed = busiest.into_iter().map(|(_, port)| port).collect();
        let before = std::mem::replace(&mut self.closed, closed);
        let differing: Vec<u16> = before.symmetric_difference(&self.closed).copied().collect();
        differing.into_iter().for_each(|port| self.note_stale(port));
    }

    fn note_stale(&mut self, port: u16) {
        self.slabs[place_in_slabs(port.into()).0].is_stale = true;
    }
}

impl Named<'_> {
    fn has(self, port: u16) -> bool {
        self.services.contains(&port) || self.redirected.contains(&port)
    }
}

impl Slab {
    fn closed(&mut self, is_open: impl Fn(u16) -> bool) -> &[(u64, u16)] {
        self.closed.get_or_insert_with(|| {
            let ports = self.syn.iter().filter_map(|(place, syn)| Some((syn.syn, u16::try_from(*place).ok()?)));
            busiest(ports.filter(|(_, port)| !is_open(*port)).collect())
        })
    }
}

/// Returns the ports with the most SYNs.
fn busiest(mut ports: Vec<(u64, u16)>) -> Vec<(u64, u16)> {
    ports.sort_unstable_by(|left, right| right.cmp(left));
    ports.truncate(MAX_CLOSED_PORTS);
    ports
}

/// Returns the ports of each of the host's slabs, in their order.
fn ranges() -> impl Iterator<Item = RangeInclusive<u16>> {
    (0..=u16::MAX).step_by(PORTS_PER_SLAB).map(|first| first..=first + (PORTS_PER_SLAB - 1) as u16)
}

/// What accounts are assembled from, besides what the datapath counted.
struct Facts<'a> {
    listeners: &'a Listeners,
    half_open: &'a HalfOpenTable,
    named: Named<'a>,
    closed: &'a BTreeSet<u16>,
}

impl Facts<'_> {
    /// Returns the accounts of the ports of one slab.
    fn assemble(&self, slab: &Slab, range: &RangeInclusive<u16>) -> Vec<PortSnapshot> {
        let listening = self.listeners.of_ports(range).map(|(port, of_port)| listening(port, of_port));
        let mut accounts: Vec<PortSnapshot> = listening.collect();
        let half_open = self.half_open.by_port.range(range.clone()).map(|(port, _)| port);
        let Named { services, redirected } = self.named;
        let others = [services, redirected, self.closed].map(|ports| ports.range(range.clone()));
        let others = others.into_iter().flatten().chain(half_open);
        let others: BTreeSet<u16> = others.copied().filter(|port| self.listeners.of_port(*port).is_empty()).collect();
        accounts.extend(others.into_iter().map(|port| PortSnapshot { port, ..PortSnapshot::default() }));
        accounts.sort_unstable_by_key(|account| account.port);
        for account in &mut accounts {
            account.fill_counts(slab, account.port.into());
            account.half_open = self.half_open.by_port.get(&account.port).map_or(0, |counts| counts.total as u64);
            account.is_redirected = redirected.contains(&account.port);
        }
        accounts
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
    /// Adds what was counted at a place.
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

    const NONE: Named<'static> = Named { services: &BTreeSet::new(), redirected: &BTreeSet::new() };

    fn half_open(port: u16) -> Arc<HalfOpenTable> {
        let mut half_open = HalfOpenTable::default();
        half_open.add(HalfOpen {
            local: ([198, 18, 0, 1], port).into(),
            remote: ([198, 18, 0, 9], 4000).into(),
            age: Duration::ZERO,
            retransmits: 1,
        });
        Arc::new(half_open)
    }

    fn listening(addresses: &[(&str, u32)]) -> Arc<Listeners> {
        let listener =
            |(address, queue): &(&str, u32)| Listener::new(address.parse().expect("an address"), *queue, 128);
        Arc::new(Listeners::new(addresses.iter().map(listener).collect()))
    }

    fn syn(syn: u64) -> PortSyns {
        PortSyns { syn, ..PortSyns::default() }
    }

    fn ports(ports: &Ports) -> Vec<u16> {
        ports.iter().map(|account| account.port).collect()
    }

    #[test]
    fn all_that_is_known_of_a_port_comes_together() {
        let mut accounts = Accounts::default();
        accounts.set_syn(0, vec![(81, syn(7)), (443, PortSyns { not_begun: 2, restrained: 1, ..syn(9) })]);
        let handshakes = PortHandshakes { completed: 5, retried: 2, reset: 1, ..PortHandshakes::default() };
        accounts.set_handshakes(0, vec![(443, handshakes)]);
        let listeners = listening(&[("0.0.0.0:443", 1), ("[::]:443", 1)]);
        let (services, redirected) = (BTreeSet::from([22]), BTreeSet::from([8080]));
        let named = Named { services: &services, redirected: &redirected };
        accounts.forget();
        let reported: Vec<PortSnapshot> = accounts.report(&listeners, &half_open(443), named).iter().copied().collect();
        assert_eq!(
            reported,
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
                PortSnapshot { port: 8080, is_redirected: true, ..PortSnapshot::default() },
            ]
        );
    }

    #[test]
    fn a_scan_does_not_fill_the_report() {
        let mut accounts = Accounts::default();
        for slab in 0..PROTECTED_SLAB {
            let places =
                (0..PORTS_PER_SLAB as u32).map(|place| ((slab * PORTS_PER_SLAB) as u32 + place, syn(place.into())));
            accounts.set_syn(slab, places.collect());
        }
        let reported = accounts.report(&Arc::default(), &Arc::default(), NONE);
        assert_eq!(reported.iter().count(), MAX_CLOSED_PORTS);
        assert!(reported.iter().all(|port| port.syn == 511 && port.port % 512 == 511), "the busiest of them");
    }

    /// Asserts that the accounts that changed are these, and that assembling all anew gives the same accounts.
    fn assert_changed(
        accounts: &mut Accounts,
        before: &Ports,
        changed: &[u16],
        listeners: &Arc<Listeners>,
        half_open: &Arc<HalfOpenTable>,
    ) -> Ports {
        let now = accounts.report(listeners, half_open, NONE);
        assert_eq!(now.changed_since(before).map(|account| account.port).collect::<Vec<_>>(), changed);
        accounts.forget();
        let anew = accounts.report(listeners, half_open, NONE);
        assert_eq!(anew.iter().collect::<Vec<_>>(), now.iter().collect::<Vec<_>>());
        assert_eq!(anew.changed_since(&now).count(), 0);
        now
    }

    #[test]
    fn an_account_changes_with_whatever_it_is_assembled_from() {
        let mut accounts = Accounts::default();
        let (idle, none) = (listening(&[("0.0.0.0:22", 0), ("0.0.0.0:5000", 0)]), Arc::default());
        let first = assert_changed(&mut accounts, &Ports::default(), &[22, 5000], &idle, &none);
        let same = assert_changed(&mut accounts, &first, &[], &idle, &none);
        let counted = syn(3);
        accounts.set_syn(9, vec![(5000, counted)]);
        let counted = assert_changed(&mut accounts, &same, &[5000], &idle, &none);
        accounts.set_handshakes(0, vec![(22, PortHandshakes { completed: 1, ..PortHandshakes::default() })]);
        let completed = assert_changed(&mut accounts, &counted, &[22], &idle, &none);
        let waiting = listening(&[("0.0.0.0:22", 0), ("0.0.0.0:5000", 9)]);
        let queue = assert_changed(&mut accounts, &completed, &[5000], &waiting, &none);
        let held = assert_changed(&mut accounts, &queue, &[22], &waiting, &half_open(22));
        let over = assert_changed(&mut accounts, &held, &[22, 60_000], &waiting, &half_open(60_000));
        let over = assert_changed(&mut accounts, &over, &[], &waiting, &none);
        assert_eq!(ports(&over), [22, 5000], "the port without a listener is gone with its handshake");
        // A busier port takes the place of one of another slab.
        let busy = |from: u32, syns: u64| (from..from + 32).map(|place| (place, syn(syns))).collect::<Vec<_>>();
        accounts.set_syn(20, busy(20 * 512, 5));
        let full = accounts.report(&waiting, &none, NONE);
        accounts.set_syn(30, busy(30 * 512, 6));
        let replaced = accounts.report(&waiting, &none, NONE);
        assert_eq!([&full, &replaced].map(|ports| ports.get(20 * 512).is_some()), [true, false]);
        assert_eq!(replaced.iter().count(), 2 + MAX_CLOSED_PORTS);
    }
}

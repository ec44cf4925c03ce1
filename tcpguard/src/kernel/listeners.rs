//! The kernel's listeners, ordered by port: some hosts have tens of thousands.

use std::{collections::BTreeSet, ops::RangeInclusive};

use super::Listener;

/// The listeners, ordered by port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listeners {
    all: Vec<Listener>,
    /// Each port, and the place of its first listener.
    starts: Vec<(u16, u32)>,
    reachable_ports: BTreeSet<u16>,
}

impl Listeners {
    /// Creates the list from listeners in any order.
    pub fn new(mut all: Vec<Listener>) -> Self {
        all.sort_by_key(|listener| listener.local.port());
        let mut starts: Vec<(u16, u32)> =
            (0..).zip(&all).map(|(place, listener)| (listener.local.port(), place)).collect();
        starts.dedup_by_key(|(port, _)| *port);
        let reachable = all.iter().filter(|listener| listener.is_reachable());
        Self { reachable_ports: reachable.map(|listener| listener.local.port()).collect(), starts, all }
    }

    /// Returns all listeners.
    pub fn all(&self) -> &[Listener] {
        &self.all
    }

    /// Returns each port and its listeners, in the order of the ports.
    pub fn by_port(&self) -> impl Iterator<Item = (u16, &[Listener])> {
        let chunks = self.all.chunk_by(|left, right| left.local.port() == right.local.port());
        chunks.filter_map(|listeners| Some((listeners.first()?.local.port(), listeners)))
    }

    /// Returns each port of a range that has listeners, and these, in the order of the ports.
    pub fn of_ports(&self, range: &RangeInclusive<u16>) -> impl Iterator<Item = (u16, &[Listener])> {
        let first = self.starts.partition_point(|(port, _)| port < range.start());
        let of_range = self.starts[first..].iter().take_while(|(port, _)| port <= range.end());
        of_range.map(|(port, _)| (*port, self.of_port(*port)))
    }

    /// Returns the listeners of one port.
    pub fn of_port(&self, port: u16) -> &[Listener] {
        let Ok(place) = self.starts.binary_search_by_key(&port, |(port, _)| *port) else { return &[] };
        let start = self.starts[place].1 as usize;
        let end = self.starts.get(place + 1).map_or(self.all.len(), |(_, start)| *start as usize);
        &self.all[start..end]
    }

    /// Returns the ports that other hosts can reach.
    pub const fn reachable_ports(&self) -> &BTreeSet<u16> {
        &self.reachable_ports
    }

    /// Returns the ports whose listeners are not the same as in `other`.
    pub fn differing_ports<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = u16> {
        let starts = self.starts.iter().chain(&other.starts).map(|(port, _)| *port);
        starts.filter(|port| !are_same(self.of_port(*port), other.of_port(*port)))
    }

    /// Returns whether both have the same listeners, however many connections wait to be accepted.
    pub fn are_same(&self, other: &Self) -> bool {
        are_same(&self.all, &other.all)
    }
}

fn are_same(left: &[Listener], right: &[Listener]) -> bool {
    let same = |left: &Listener, right: &Listener| Listener { accept_queue: right.accept_queue, ..*left } == *right;
    left.len() == right.len() && left.iter().zip(right).all(|(left, right)| same(left, right))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(address: &str, accept_queue: u32) -> Listener {
        Listener::new(address.parse().expect("an address"), accept_queue, 128)
    }

    #[test]
    fn listeners_are_found_by_port() {
        let addresses = ["[::]:443", "127.0.0.1:25", "0.0.0.0:443", "198.18.0.1:80"];
        let listeners = Listeners::new(addresses.map(|address| listener(address, 0)).to_vec());
        let ports: Vec<(u16, usize)> = listeners.by_port().map(|(port, of_port)| (port, of_port.len())).collect();
        assert_eq!(ports, [(25, 1), (80, 1), (443, 2)]);
        assert_eq!([24, 25, 443, 444].map(|port| listeners.of_port(port).len()), [0, 1, 2, 0]);
        let of_ports: Vec<u16> = listeners.of_ports(&(25..=442)).map(|(port, _)| port).collect();
        assert_eq!(of_ports, [25, 80]);
        assert_eq!(*listeners.reachable_ports(), BTreeSet::from([80, 443]));
    }

    #[test]
    fn connections_that_wait_make_no_other_listener() {
        let one = |address, queue| Listeners::new(vec![listener(address, queue)]);
        assert!(one("0.0.0.0:80", 0).are_same(&one("0.0.0.0:80", 5)));
        assert!(!one("0.0.0.0:80", 0).are_same(&one("0.0.0.0:81", 0)));
        assert!(!one("0.0.0.0:80", 0).are_same(&Listeners::default()));
        let differing = |left: &Listeners, right: &Listeners| left.differing_ports(right).collect::<BTreeSet<u16>>();
        assert_eq!(differing(&one("0.0.0.0:80", 0), &one("0.0.0.0:80", 5)), BTreeSet::new());
        assert_eq!(differing(&one("0.0.0.0:80", 0), &one("[::]:80", 0)), BTreeSet::from([80]));
        assert_eq!(differing(&one("0.0.0.0:80", 0), &one("0.0.0.0:81", 0)), BTreeSet::from([80, 81]));
    }
}

//! The ports of this host that are redirected, to a container or another host: they have no listener that others can reach, and
//! SYN-ACKs are sent from them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use tcpguard_common::abi::port::PortHandshakes;

use crate::kernel::Listeners;

/// How long a port counts as redirected after its last SYN-ACK.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// The maximum number of redirected ports, each of which is looked at in every tick. A process of this host can send SYN-ACKs
/// from any port.
const MAX_PORTS: usize = 1024;

/// Finds the ports that are redirected.
#[derive(Default)]
pub(super) struct Redirected {
    replies: BTreeMap<u16, Replies>,
    ports: BTreeSet<u16>,
}

/// SYN-ACKs sent from one port.
#[derive(Clone, Copy)]
struct Replies {
    total: u64,
    /// When the last one was noticed; `None` if none was since a previous daemon counted them.
    last: Option<Instant>,
}

impl Redirected {
    /// Returns the ports that are redirected.
    pub const fn ports(&self) -> &BTreeSet<u16> {
        &self.ports
    }

    /// Notes from which ports SYN-ACKs were sent, by place; `is_taken_over` if a previous daemon may have counted them.
    pub fn note(&mut self, handshakes: &[(u32, PortHandshakes)], is_taken_over: bool, now: Instant) {
        for (place, totals) in handshakes.iter().filter(|(_, totals)| totals.replied > 0) {
            let Ok(port) = u16::try_from(*place) else { continue };
            let seen = Replies { total: totals.replied, last: Some(now) };
            match self.replies.get_mut(&port) {
                Some(known) if known.total == totals.replied => {}
                Some(known) => *known = seen,
                None if is_taken_over => drop(self.replies.insert(port, Replies { last: None, ..seen })),
                None => drop(self.replies.insert(port, seen)),
            }
        }
    }

    /// Finds them anew; returns whether others are redirected than before.
    pub fn has_changed(&mut self, listeners: &Listeners, now: Instant) -> bool {
        let is_recent = |replies: &Replies| replies.last.is_some_and(|last| now.duration_since(last) < REMEMBERED);
        let is_served = |port: &u16| listeners.reachable_ports().contains(port);
        let recent = self.replies.iter().filter(|(port, replies)| is_recent(replies) && !is_served(port));
        let ports: BTreeSet<u16> = recent.map(|(port, _)| *port).take(MAX_PORTS).collect();
        let has_changed = ports != self.ports;
        self.ports = ports;
        has_changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Listener;

    fn replied(port: u32, replied: u64) -> Vec<(u32, PortHandshakes)> {
        vec![(port, PortHandshakes { replied, ..PortHandshakes::default() })]
    }

    #[test]
    fn a_port_that_answers_without_a_listener_is_redirected_for_an_hour() {
        let (mut redirected, start) = (Redirected::default(), Instant::now());
        let none = Listeners::default();
        redirected.note(&replied(80, 3), false, start);
        redirected.note(&replied(443, 0), false, start);
        redirected.note(&replied(65_536, 7), false, start);
        assert!(redirected.has_changed(&none, start) && !redirected.has_changed(&none, start));
        assert_eq!(*redirected.ports(), BTreeSet::from([80]));
        let later = start + REMEMBERED;
        for _ in 0..2 {
            redirected.note(&replied(80, 3), false, later);
            redirected.has_changed(&none, later);
            assert!(redirected.ports().is_empty(), "none was sent since");
        }
        redirected.note(&replied(80, 4), false, later);
        assert!(redirected.has_changed(&none, later));
    }

    #[test]
    fn what_a_previous_daemon_counted_tells_nothing() {
        let (mut redirected, now) = (Redirected::default(), Instant::now());
        redirected.note(&replied(80, 3), true, now);
        assert!(!redirected.has_changed(&Listeners::default(), now));
        redirected.note(&replied(80, 4), true, now);
        assert!(redirected.has_changed(&Listeners::default(), now));
    }

    #[test]
    fn a_listener_takes_the_port_over_if_others_can_reach_it() {
        let (mut redirected, now) = (Redirected::default(), Instant::now());
        let listening =
            |address: &str| Listeners::new(vec![Listener::new(address.parse().expect("an address"), 0, 128)]);
        redirected.note(&replied(80, 3), false, now);
        assert!(!redirected.has_changed(&listening("0.0.0.0:80"), now));
        assert!(redirected.has_changed(&listening("127.0.0.1:80"), now));
        assert!(redirected.has_changed(&listening("0.0.0.0:80"), now) && redirected.ports().is_empty());
    }

    #[test]
    fn there_are_only_so_many() {
        let (mut redirected, now) = (Redirected::default(), Instant::now());
        for port in 1..20_000 {
            redirected.note(&replied(port, 1), false, now);
        }
        assert!(redirected.has_changed(&Listeners::default(), now));
        assert_eq!(redirected.ports().len(), MAX_PORTS);
    }
}

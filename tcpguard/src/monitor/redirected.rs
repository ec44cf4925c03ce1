//! The ports of this host that are redirected, to a container or another host: they have no listener, and SYN-ACKs are sent
//! from them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use tcpguard_common::abi::port::PortHandshakes;

use crate::kernel::Listeners;

/// How long a port counts as redirected after its last SYN-ACK.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// Finds the ports that are redirected.
#[derive(Default)]
pub(super) struct Redirected {
    /// How many SYN-ACKs were sent from each port, and when the last of them was noticed.
    replies: BTreeMap<u16, (u64, Instant)>,
    ports: BTreeSet<u16>,
}

impl Redirected {
    /// Returns the ports that are redirected.
    pub const fn ports(&self) -> &BTreeSet<u16> {
        &self.ports
    }

    /// Notes from which ports SYN-ACKs were sent, by place.
    pub fn note(&mut self, handshakes: &[(u32, PortHandshakes)], listeners: &Listeners, now: Instant) {
        for (place, totals) in handshakes.iter().filter(|(_, totals)| totals.replied > 0) {
            let Ok(port) = u16::try_from(*place) else { continue };
            if !listeners.of_port(port).is_empty() {
                continue;
            }
            let known = self.replies.entry(port).or_insert((0, now));
            if known.0 != totals.replied {
                *known = (totals.replied, now);
            }
        }
    }

    /// Finds them anew; returns whether others are redirected than before.
    pub fn has_changed(&mut self, listeners: &Listeners, now: Instant) -> bool {
        self.replies.retain(|_, (_, last)| now.duration_since(*last) < REMEMBERED);
        let without_listener = self.replies.keys().filter(|port| listeners.of_port(**port).is_empty());
        let ports: BTreeSet<u16> = without_listener.copied().collect();
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
        redirected.note(&replied(80, 3), &none, start);
        redirected.note(&replied(443, 0), &none, start);
        redirected.note(&replied(65_536, 7), &none, start);
        assert!(redirected.has_changed(&none, start) && !redirected.has_changed(&none, start));
        assert_eq!(*redirected.ports(), BTreeSet::from([80]));
        let later = start + REMEMBERED;
        redirected.note(&replied(80, 3), &none, later);
        assert!(redirected.has_changed(&none, later), "none was sent since");
        redirected.note(&replied(80, 4), &none, later);
        assert!(redirected.has_changed(&none, later));
    }

    #[test]
    fn a_listener_takes_the_port_over() {
        let (mut redirected, now) = (Redirected::default(), Instant::now());
        let listening = Listeners::new(vec![Listener::new("0.0.0.0:80".parse().expect("an address"), 0, 128)]);
        redirected.note(&replied(80, 3), &listening, now);
        assert!(!redirected.has_changed(&listening, now));
        redirected.note(&replied(80, 3), &Listeners::default(), now);
        assert!(redirected.has_changed(&Listeners::default(), now));
        assert!(redirected.has_changed(&listening, now) && redirected.ports().is_empty());
    }
}

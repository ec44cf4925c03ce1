//! Whether challenges lead to connections. Where they do not, although connections were made before, something
//! on the way takes the answers for what they are not: a redirection to another host or container, a firewall
//! that wants to see the first SYN, a network namespace that nobody knew of. The port is then left alone.

use std::{collections::BTreeMap, time::Duration};

use crate::monitor::PortSnapshot;

/// So many connections would have to be made by chance, and none is: once in e¹² times.
const EXPECTED: f64 = 12.0;
/// It takes so long at least: a client asks again after a second.
const LEAST_SILENCE: Duration = Duration::from_millis(1500);
/// Fewer challenges tell nothing.
const LEAST_CHALLENGES: u64 = 16;
/// For how long a port is left alone.
pub const LEFT_ALONE: Duration = Duration::from_secs(600);
/// SYNs that came in calm times to a port where no handshake ever completed: so many mean that they complete
/// somewhere else.
const TELLING_SYNS: u64 = 32;
/// Of one look at most so many count: the first moment of a flood is no calm time.
const SYNS_OF_A_LOOK: u64 = 2;
/// The rate of connections is averaged over about this.
const MEMORY: Duration = Duration::from_secs(60);

/// Watches over the ports.
#[derive(Default)]
pub struct Watchdog {
    ports: BTreeMap<u16, Port>,
}

#[derive(Clone, Debug, Default)]
struct Port {
    last: PortSnapshot,
    at: Duration,
    /// Sources that proved themselves, a second, while the port was not challenged.
    usual: f64,
    /// SYNs that came while it was not challenged.
    calm_syns: u64,
    /// Since when no source has proved itself, and how many challenges there had been.
    silent_since: Option<(Duration, u64)>,
    left_alone: Option<LeftAlone>,
}

/// A port that is not challenged, until when, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftAlone {
    /// Until when.
    pub until: Duration,
    /// Why, in a sentence.
    pub reason: String,
}

impl Watchdog {
    /// Notes what was seen of a port, which was challenged since the last time, or not.
    pub fn note(&mut self, snapshot: &PortSnapshot, is_challenged: bool, is_calm: bool, at: Duration) {
        let port = self.ports.entry(snapshot.port).or_insert_with(|| Port { last: *snapshot, at, ..Port::default() });
        let seconds = at.saturating_sub(port.at).as_secs_f64();
        let here = proved_here(snapshot).saturating_sub(proved_here(&port.last));
        if port.left_alone.as_ref().is_some_and(|left| at >= left.until) {
            port.left_alone = None;
        }
        if !is_challenged {
            let weight = (seconds / MEMORY.as_secs_f64()).min(1.0);
            let rate = if seconds > 0.0 { here as f64 / seconds } else { port.usual };
            port.usual += (rate - port.usual) * weight;
            let syns = if is_calm { snapshot.begun.saturating_sub(port.last.begun) } else { 0 };
            port.calm_syns += syns.min(SYNS_OF_A_LOOK);
            port.silent_since = None;
        } else if here > 0 || port.silent_since.is_none() {
            port.silent_since = Some((at, snapshot.challenged));
        }
        (port.last, port.at) = (*snapshot, at);
        if port.left_alone.is_none() {
            port.left_alone = port.problem(at).map(|reason| LeftAlone { until: at + LEFT_ALONE, reason });
        }
    }

    /// Why a port must not be challenged.
    pub fn left_alone(&self, port: u16) -> Option<&LeftAlone> {
        self.ports.get(&port)?.left_alone.as_ref()
    }

    /// Why a port should not be challenged although nobody has tried: its handshakes never completed here.
    pub fn is_served_elsewhere(&self, port: u16) -> Option<String> {
        let syns = self.ports.get(&port).filter(|port| port.calm_syns >= TELLING_SYNS)?.calm_syns;
        (!self.is_served_here(port)).then(|| {
            format!(
                "although {syns} SYNs came in calm times, no handshake ever completed on this host: they are redirected"
            )
        })
    }

    /// Whether a handshake at this port has ever completed on this host.
    pub fn is_served_here(&self, port: u16) -> bool {
        self.ports.get(&port).is_some_and(|port| port.last.completed > port.last.elsewhere)
    }

    /// Ports that are not there any more are forgotten.
    pub fn keep_only(&mut self, wanted: impl Fn(u16) -> bool) {
        self.ports.retain(|port, _| wanted(*port));
    }
}

impl Port {
    fn problem(&self, at: Duration) -> Option<String> {
        let (since, challenges) = self.silent_since?;
        let silence = at.saturating_sub(since);
        let sent = self.last.challenged.saturating_sub(challenges);
        let expected = self.usual * silence.as_secs_f64();
        (silence >= LEAST_SILENCE && sent >= LEAST_CHALLENGES && expected >= EXPECTED).then(|| {
            format!(
                "{sent} challenges were sent in {:.1} s and no handshake completed, although {:.1} sources a second \
                 completed one before: a redirection, a firewall or another network namespace is on the way",
                silence.as_secs_f64(),
                self.usual
            )
        })
    }
}

const fn proved_here(port: &PortSnapshot) -> u64 {
    port.proved.saturating_sub(port.elsewhere)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Watch {
        dog: Watchdog,
        port: PortSnapshot,
        tick: u64,
    }

    impl Watch {
        fn new() -> Self {
            Self { dog: Watchdog::default(), port: PortSnapshot { port: 80, ..PortSnapshot::default() }, tick: 0 }
        }

        /// So many ticks with so many new sources and challenges in each.
        fn run(&mut self, ticks: u64, proved: u64, challenged: u64) -> Option<LeftAlone> {
            let mut left = None;
            for _ in 0..ticks {
                self.tick += 1;
                self.port.begun += proved + challenged;
                self.port.proved += proved;
                self.port.completed += proved;
                self.port.challenged += challenged;
                let at = Duration::from_millis(100 * self.tick);
                self.dog.note(&self.port, challenged > 0, challenged == 0, at);
                left = left.or(self.dog.left_alone(80).cloned());
            }
            left
        }
    }

    #[test]
    fn challenges_that_lead_to_nothing_are_ended() {
        let mut watch = Watch::new();
        assert_eq!(watch.run(1200, 1, 0), None);
        let left = watch.run(30, 0, 10_000).expect("nothing completes");
        assert!(left.reason.contains("no handshake completed"), "{}", left.reason);
        assert!(watch.dog.left_alone(80).is_some());
        watch.run(6000, 1, 0);
        assert!(watch.dog.left_alone(80).is_none(), "not for ever");
    }

    #[test]
    fn they_go_on_where_clients_get_through_or_nobody_comes() {
        let mut watch = Watch::new();
        watch.run(1200, 1, 0);
        assert_eq!(watch.run(1200, 1, 10_000), None);
        let mut nobody = Watch::new();
        nobody.run(600, 0, 0);
        assert_eq!(nobody.run(6000, 0, 10_000), None, "nobody came before either");
    }

    #[test]
    fn a_port_that_never_completes_one_is_served_elsewhere() {
        let mut watch = Watch::new();
        watch.run(10, 0, 0);
        assert!(watch.dog.is_served_elsewhere(80).is_none() && !watch.dog.is_served_here(80));
        for _ in 0..32 {
            watch.port.begun += 100;
            watch.run(1, 0, 0);
        }
        assert!(watch.dog.is_served_elsewhere(80).is_some());
        watch.run(1, 1, 0);
        assert!(watch.dog.is_served_elsewhere(80).is_none() && watch.dog.is_served_here(80));
        let mut container = Watch::new();
        container.run(1, 0, 0);
        (container.port.proved, container.port.completed, container.port.elsewhere) = (1, 1, 1);
        container.run(1, 0, 0);
        assert!(!container.dog.is_served_here(80), "a container's handshake at its own port of that number");
        assert!(container.dog.is_served_elsewhere(80).is_none(), "which tells nothing of this one");
    }
}

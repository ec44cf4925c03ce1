//! Whether challenges lead to connections. Where they do not, something on the way takes the answers for what they
//! are not: a redirection to another host or container, a firewall that wants to see the first SYN, a network
//! namespace that nobody knew of. The port is then left alone.
//!
//! Two things show it. Cookies come back, and no handshake completes: that needs no knowledge of what is usual.
//! Or nothing comes back at all, and no handshake completes, although they did before.

use std::{collections::BTreeMap, time::Duration};

use crate::monitor::PortSnapshot;

/// So many cookies have to come back for nothing.
const LEAST_RETURNED: u64 = 6;
/// So many connections would have to be made by chance, and none is: once in e¹² times.
const EXPECTED: f64 = 12.0;
/// It takes so long at least: a client asks again after a second.
const LEAST_SILENCE: Duration = Duration::from_millis(1500);
/// Fewer challenges tell nothing.
const LEAST_CHALLENGES: u64 = 16;
/// For how long a port is left alone, before it is tried again.
const LEFT_ALONE: Duration = Duration::from_secs(120);
/// SYNs that came in calm times to a port where no handshake ever completed: so many mean that they complete
/// somewhere else.
const TELLING_SYNS: u64 = 32;
/// Of one look at most so many count: the first moment of a flood is no calm time.
const SYNS_OF_A_LOOK: u64 = 2;
/// The rate of connections is averaged over about this.
const MEMORY: Duration = Duration::from_secs(60);

/// IPv4 or IPv6: one may be redirected and the other not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// As it is shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        }
    }
}

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
    /// Since when no handshake has completed, while the port is challenged.
    silent: [Option<Silence>; 2],
    left_alone: [Option<LeftAlone>; 2],
}

/// What was when the last handshake completed.
#[derive(Clone, Copy, Debug)]
struct Silence {
    since: Duration,
    challenged: u64,
    returned: u64,
}

#[derive(Clone, Debug)]
struct LeftAlone {
    until: Duration,
    reason: String,
}

impl Watchdog {
    /// Notes what was seen of a port, which was challenged since the last time, or not.
    pub fn note(&mut self, snapshot: &PortSnapshot, is_challenged: bool, is_calm: bool, at: Duration) {
        let port = self.ports.entry(snapshot.port).or_insert_with(|| Port { last: *snapshot, at, ..Port::default() });
        if !is_challenged {
            port.learn(snapshot, is_calm, at);
        }
        for family in Family::ALL {
            port.listen(snapshot, family, is_challenged, at);
        }
        (port.last, port.at) = (*snapshot, at);
        for family in Family::ALL {
            let left = &mut port.left_alone[family as usize];
            if left.as_ref().is_some_and(|left| at >= left.until) {
                *left = None;
            }
            if port.left_alone[family as usize].is_none() {
                let problem = port.problem(family, at);
                port.left_alone[family as usize] = problem.map(|reason| LeftAlone { until: at + LEFT_ALONE, reason });
            }
        }
    }

    /// Why a port must not be challenged over this family.
    pub fn left_alone(&self, port: u16, family: Family) -> Option<&str> {
        Some(&self.ports.get(&port)?.left_alone[family as usize].as_ref()?.reason)
    }

    /// Why a port should not be challenged although nobody has tried: its handshakes never completed here.
    pub fn is_served_elsewhere(&self, port: u16) -> Option<&'static str> {
        let is_told = self.ports.get(&port).is_some_and(|port| port.calm_syns >= TELLING_SYNS);
        let is_served_here = Family::ALL.into_iter().any(|family| self.is_served_here(port, family));
        (is_told && !is_served_here).then_some(
            "although SYNs came in calm times, no handshake ever completed on this host: they are redirected",
        )
    }

    /// Whether a handshake at this port has ever completed on this host.
    pub fn is_served_here(&self, port: u16, family: Family) -> bool {
        self.ports.get(&port).is_some_and(|port| port.last.here[family as usize] > 0)
    }

    /// Ports that are not there any more are forgotten.
    pub fn keep_only(&mut self, wanted: impl Fn(u16) -> bool) {
        self.ports.retain(|port, _| wanted(*port));
    }
}

impl Port {
    fn learn(&mut self, snapshot: &PortSnapshot, is_calm: bool, at: Duration) {
        let seconds = at.saturating_sub(self.at).as_secs_f64();
        let proved = snapshot.proved.saturating_sub(self.last.proved);
        let weight = (seconds / MEMORY.as_secs_f64()).min(1.0);
        let rate = if seconds > 0.0 { proved as f64 / seconds } else { self.usual };
        self.usual += (rate - self.usual) * weight;
        let syns = if is_calm { snapshot.begun.saturating_sub(self.last.begun) } else { 0 };
        self.calm_syns += syns.min(SYNS_OF_A_LOOK);
    }

    fn listen(&mut self, snapshot: &PortSnapshot, family: Family, is_challenged: bool, at: Duration) {
        let index = family as usize;
        let silent = &mut self.silent[index];
        // An application that accepts too slowly makes the kernel refuse good cookies.
        if !is_challenged || snapshot.is_full {
            *silent = None;
        } else if silent.is_none() || snapshot.here[index] > self.last.here[index] {
            let (challenged, returned) = (snapshot.challenged, snapshot.returned[index]);
            *silent = Some(Silence { since: at, challenged, returned });
        }
    }

    fn problem(&self, family: Family, at: Duration) -> Option<String> {
        let silent = self.silent[family as usize]?;
        let silence = at.saturating_sub(silent.since);
        if silence < LEAST_SILENCE {
            return None;
        }
        let returned = self.last.returned[family as usize].saturating_sub(silent.returned);
        if returned >= LEAST_RETURNED {
            return Some(format!(
                "{returned} cookies came back over {} in {:.1} s and no handshake completed: a redirection, a firewall \
                 or another network namespace is on the way",
                family.name(),
                silence.as_secs_f64()
            ));
        }
        self.nothing_comes_back(at)
    }

    /// Over neither family, although it did before.
    fn nothing_comes_back(&self, at: Duration) -> Option<String> {
        let [Some(ipv4), Some(ipv6)] = self.silent else { return None };
        let silence = at.saturating_sub(ipv4.since.max(ipv6.since));
        let sent = self.last.challenged.saturating_sub(ipv4.challenged.max(ipv6.challenged));
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

        /// So many ticks, with so many new sources by IPv4 and challenges in each.
        fn run(&mut self, ticks: u64, proved: u64, challenged: u64) -> Option<String> {
            let mut left = None;
            for _ in 0..ticks {
                self.tick += 1;
                self.port.begun += proved + challenged;
                self.port.proved += proved;
                self.port.here[0] += proved;
                self.port.challenged += challenged;
                let at = Duration::from_millis(100 * self.tick);
                self.dog.note(&self.port, challenged > 0, challenged == 0, at);
                left = left.or(self.dog.left_alone(80, Family::Ipv4).map(str::to_owned));
            }
            left
        }
    }

    #[test]
    fn challenges_that_lead_to_nothing_are_ended() {
        let mut watch = Watch::new();
        assert_eq!(watch.run(1200, 1, 0), None);
        let reason = watch.run(30, 0, 10_000).expect("nothing completes");
        assert!(reason.contains("no handshake completed, although"), "{reason}");
        watch.run(1300, 1, 0);
        assert!(watch.dog.left_alone(80, Family::Ipv4).is_none(), "not for ever");
    }

    #[test]
    fn cookies_that_come_back_for_nothing_need_no_history() {
        let mut watch = Watch::new();
        assert_eq!(watch.run(10, 0, 100), None);
        watch.port.returned[0] += LEAST_RETURNED;
        let reason = watch.run(20, 0, 100).expect("they lead to nothing");
        assert!(reason.contains("came back over IPv4"), "{reason}");
        assert!(watch.dog.left_alone(80, Family::Ipv6).is_none(), "the other family may work");
    }

    #[test]
    fn they_go_on_where_clients_get_through_or_nobody_comes() {
        let mut watch = Watch::new();
        watch.run(1200, 1, 0);
        for _ in 0..100 {
            watch.port.returned[0] += 1;
            assert_eq!(watch.run(12, 1, 10_000), None);
        }
        let mut nobody = Watch::new();
        nobody.run(600, 0, 0);
        assert_eq!(nobody.run(6000, 0, 10_000), None, "nobody came before either");
        let mut slow = Watch::new();
        (slow.port.is_full, slow.port.returned[0]) = (true, 100);
        assert_eq!(slow.run(100, 0, 10_000), None, "it is the application that is slow");
    }

    #[test]
    fn a_port_that_never_completes_one_is_served_elsewhere() {
        let mut watch = Watch::new();
        watch.run(10, 0, 0);
        assert!(watch.dog.is_served_elsewhere(80).is_none() && !watch.dog.is_served_here(80, Family::Ipv4));
        for _ in 0..32 {
            watch.port.begun += 100;
            watch.run(1, 0, 0);
        }
        assert!(watch.dog.is_served_elsewhere(80).is_some());
        watch.run(1, 1, 0);
        assert!(watch.dog.is_served_elsewhere(80).is_none() && watch.dog.is_served_here(80, Family::Ipv4));
        assert!(!watch.dog.is_served_here(80, Family::Ipv6));
    }
}

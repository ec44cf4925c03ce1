//! Checks whether challenges lead to connections. If they do not, something on the path does not accept the SYN-ACKs: a
//! redirection to another host or container, a firewall that expects to see the first SYN, or an unknown network
//! namespace. The port is then challenged by retransmit, never not at all: an attacker can cause each of the indications.
//!
//! There are three indications. Cookies are returned but no handshake completes, which requires no knowledge of the usual
//! traffic. Or nothing is returned at all and no handshake completes, although handshakes completed before. Or no handshake
//! ever completed on this host.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::monitor::{PortSnapshot, Ports};

/// How many cookies must be returned from different networks without a completed handshake.
const MIN_RETURNED: u64 = 6;
/// How many must be returned where all come from a few networks, and how long no handshake may complete then: it takes a
/// single host to return so many, but not the clients of a port to stay away for so long.
const MIN_RETURNED_BY_FEW: u64 = 24;
const MIN_SILENCE_OF_FEW: Duration = Duration::from_secs(10);
/// How many connections would have to be expected for none to be significant (probability e⁻¹²).
const EXPECTED: f64 = 12.0;
/// The shortest time without a completed handshake that counts: a client retransmits after a second.
const MIN_SILENCE: Duration = Duration::from_millis(1500);
/// Fewer challenges than this are not significant.
const MIN_CHALLENGES: u64 = 16;
/// How long a port is not challenged before it is tried again.
const LEFT_ALONE: Duration = Duration::from_secs(120);
/// How many SYNs outside attacks, to a port where no handshake ever completed, show that its handshakes complete
/// elsewhere.
const TELLING_SYNS: u64 = 32;
/// At most this many SYNs per second count, and so many between two ticks, because a flood begins before it is recognized.
const SYNS_PER_SECOND: f64 = 20.0;
const SYNS_OF_A_LOOK: u64 = 8;
/// Where the last handshakes completed is known from at most so many, after that from half of them.
const REMEMBERED: u64 = 1 << 16;
/// The time constant of the average rate of connections.
const MEMORY: Duration = Duration::from_secs(60);

/// The address family: one may be redirected and the other not.
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

    /// Returns the name used in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        }
    }
}

/// Observes the ports.
#[derive(Default)]
pub struct Watchdog {
    ports: BTreeMap<u16, Port>,
    /// The accounts at the last call, and when that was.
    before: Ports,
    at: Duration,
    /// The ports that are looked at although nothing was counted: those that were challenged at the last call, and those that
    /// are left alone.
    watched: BTreeSet<u16>,
}

/// What applies to the time since the last call.
struct Look {
    last: Duration,
    at: Duration,
    is_calm: bool,
    is_challenged: bool,
}

#[derive(Clone, Debug, Default)]
struct Port {
    last: PortSnapshot,
    /// When that was seen first.
    at: Duration,
    /// Sources proven per second while the port was not challenged, on average.
    usual: f64,
    /// SYNs received outside attacks while the port was not challenged.
    calm_syns: u64,
    /// Handshakes begun and not reset, and completed on this host, outside attacks; what was long ago counts less.
    calm_begun: u64,
    calm_here: u64,
    /// Per family, the state at the last completed handshake; `None` while the port is not challenged or its accept
    /// queue is full.
    silent: [Option<Silence>; 2],
    left_alone: [Option<LeftAlone>; 2],
}

/// The state when the last handshake completed.
#[derive(Clone, Copy, Debug)]
struct Silence {
    since: Duration,
    challenged: u64,
    returned: u64,
    returned_networks: u64,
}

#[derive(Clone, Debug)]
struct LeftAlone {
    until: Duration,
    reason: String,
}

impl Watchdog {
    /// Records the counts of ports. `challenged` are those that are challenged; it applies to the time since the last call.
    pub fn note(&mut self, ports: &Ports, challenged: BTreeSet<u16>, is_calm: bool, at: Duration) {
        let before = std::mem::replace(&mut self.before, ports.clone());
        let last_look = std::mem::replace(&mut self.at, at);
        let mut visited = std::mem::take(&mut self.watched);
        visited.extend(ports.changed_since(&before).map(|account| account.port));
        visited.extend(&challenged);
        self.watched = challenged;
        for account in visited.iter().filter_map(|port| ports.get(*port)) {
            let new = || Port { last: *account, at, ..Port::default() };
            let port = self.ports.entry(account.port).or_insert_with(new);
            // Nothing was counted, and it was not challenged, from when it was visited last to the last call.
            let look = Look { last: last_look, at, is_calm, is_challenged: self.watched.contains(&account.port) };
            port.note(account, &look);
            if port.left_alone.iter().any(Option::is_some) {
                self.watched.insert(account.port);
            }
        }
    }

    /// Returns the ports that were challenged at the last call, and those that must not be challenged over some family.
    pub const fn watched(&self) -> &BTreeSet<u16> {
        &self.watched
    }

    /// Returns why a port must not be challenged over this family.
    pub fn left_alone(&self, port: u16, family: Family) -> Option<&str> {
        Some(&self.ports.get(&port)?.left_alone[family as usize].as_ref()?.reason)
    }

    /// Returns why a port should not be challenged with cookies: its handshakes never completed on this host.
    pub fn is_served_elsewhere(&self, port: u16) -> Option<&'static str> {
        let is_told = self.ports.get(&port).is_some_and(|port| port.calm_syns >= TELLING_SYNS);
        let is_served_here = Family::ALL.into_iter().any(|family| self.is_served_here(port, family));
        (is_told && !is_served_here).then_some(
            "SYNs were received outside attacks, but no handshake ever completed on this host: they are redirected",
        )
    }

    /// Returns `true` if a handshake to this port ever completed on this host.
    pub fn is_served_here(&self, port: u16, family: Family) -> bool {
        self.ports.get(&port).is_some_and(|port| port.last.here[family as usize] > 0)
    }

    /// Returns `true` if most handshakes to this port complete on this host: it is not redirected, nor was it when the last
    /// ones began.
    pub fn is_mostly_served_here(&self, port: u16) -> bool {
        self.ports.get(&port).is_some_and(|port| port.calm_here > 0 && port.calm_here * 2 >= port.calm_begun)
    }

    /// Forgets ports that are not `wanted` any more.
    pub fn keep_only(&mut self, wanted: impl Fn(u16) -> bool) {
        self.ports.retain(|port, _| wanted(*port));
    }
}

impl Port {
    fn note(&mut self, snapshot: &PortSnapshot, look: &Look) {
        let Look { last, at, is_calm, is_challenged } = *look;
        let idle = last.saturating_sub(self.at);
        self.usual *= (-idle.as_secs_f64() / MEMORY.as_secs_f64()).exp();
        self.at = self.at.max(last);
        if !is_challenged {
            self.learn(snapshot, look);
        }
        if is_calm {
            self.learn_where(snapshot);
        }
        for family in Family::ALL {
            self.listen(snapshot, family, is_challenged, at);
        }
        (self.last, self.at) = (*snapshot, at);
        for family in Family::ALL {
            let left = &mut self.left_alone[family as usize];
            if left.as_ref().is_some_and(|left| at >= left.until) {
                *left = None;
            }
            if self.left_alone[family as usize].is_none() {
                let problem = self.problem(family, at);
                self.left_alone[family as usize] = problem.map(|reason| LeftAlone { until: at + LEFT_ALONE, reason });
            }
        }
    }

    /// Counts the handshakes that began, and those that completed here. Those that were reset tell nothing, and anybody can
    /// send SYNs and resets.
    fn learn_where(&mut self, snapshot: &PortSnapshot) {
        let reset = |snapshot: &PortSnapshot| snapshot.ended.saturating_sub(snapshot.completed);
        let here = |snapshot: &PortSnapshot| snapshot.here.iter().sum::<u64>();
        let begun = snapshot.begun.saturating_sub(self.last.begun);
        // A reset may be seen later than its SYN.
        let ended = reset(snapshot).saturating_sub(reset(&self.last));
        self.calm_begun = (self.calm_begun + begun).saturating_sub(ended);
        self.calm_here += here(snapshot).saturating_sub(here(&self.last));
        // What was long ago counts less and less.
        while self.calm_begun > REMEMBERED {
            (self.calm_begun, self.calm_here) = (self.calm_begun / 2, self.calm_here / 2);
        }
    }

    fn learn(&mut self, snapshot: &PortSnapshot, look: &Look) {
        let seconds = look.at.saturating_sub(self.at).as_secs_f64();
        let proved = snapshot.proved.saturating_sub(self.last.proved);
        let weight = (seconds / MEMORY.as_secs_f64()).min(1.0);
        let rate = if seconds > 0.0 { proved as f64 / seconds } else { self.usual };
        self.usual += (rate - self.usual) * weight;
        let syns = if look.is_calm { snapshot.begun.saturating_sub(self.last.begun) } else { 0 };
        self.calm_syns += syns.min((SYNS_PER_SECOND * seconds).ceil() as u64).min(SYNS_OF_A_LOOK);
    }

    fn listen(&mut self, snapshot: &PortSnapshot, family: Family, is_challenged: bool, at: Duration) {
        let index = family as usize;
        let silent = &mut self.silent[index];
        // If the application accepts too slowly, the kernel refuses valid cookies.
        if !is_challenged || snapshot.is_full {
            *silent = None;
        } else if silent.is_none() || snapshot.here[index] > self.last.here[index] {
            *silent = Some(Silence {
                since: at,
                challenged: snapshot.challenged,
                returned: snapshot.returned[index],
                returned_networks: snapshot.returned_networks,
            });
        }
    }

    fn problem(&self, family: Family, at: Duration) -> Option<String> {
        let silent = self.silent[family as usize]?;
        let silence = at.saturating_sub(silent.since);
        if silence < MIN_SILENCE {
            return None;
        }
        let returned = self.last.returned[family as usize].saturating_sub(silent.returned);
        let networks = self.last.returned_networks.saturating_sub(silent.returned_networks);
        let is_telling = returned >= MIN_RETURNED && networks >= MIN_RETURNED
            || returned >= MIN_RETURNED_BY_FEW && silence >= MIN_SILENCE_OF_FEW;
        if is_telling {
            return Some(format!(
                "{returned} cookies were returned over {} in {:.1} s and no handshake completed: a redirection, a \
                 firewall or another network namespace is in the path",
                family.name(),
                silence.as_secs_f64()
            ));
        }
        self.nothing_comes_back(at)
    }

    /// Detects that handshakes completed over neither family, although they did before.
    fn nothing_comes_back(&self, at: Duration) -> Option<String> {
        let [Some(ipv4), Some(ipv6)] = self.silent else { return None };
        let silence = at.saturating_sub(ipv4.since.max(ipv6.since));
        let sent = self.last.challenged.saturating_sub(ipv4.challenged.max(ipv6.challenged));
        let expected = self.usual * silence.as_secs_f64();
        (silence >= MIN_SILENCE && sent >= MIN_CHALLENGES && expected >= EXPECTED).then(|| {
            format!(
                "{sent} challenges were sent in {:.1} s and no handshake completed, although {:.1} sources per second \
                 completed one before: a redirection, a firewall or another network namespace is in the path",
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

        /// Runs this many ticks, each with `proved` new IPv4 sources and `challenged` challenges.
        fn run(&mut self, ticks: u64, proved: u64, challenged: u64) -> Option<String> {
            let mut left = None;
            for _ in 0..ticks {
                self.tick += 1;
                self.port.begun += proved + challenged;
                self.port.proved += proved;
                self.port.here[0] += proved;
                self.port.challenged += challenged;
                let at = Duration::from_millis(100 * self.tick);
                let challenged_ports = if challenged > 0 { BTreeSet::from([80]) } else { BTreeSet::new() };
                self.dog.note(&[self.port].into_iter().collect(), challenged_ports, challenged == 0, at);
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
    fn what_was_usual_long_ago_is_not_missed() {
        let mut watch = Watch::new();
        watch.run(1200, 1, 0);
        // Ten minutes without a client, in which the port is not even looked at.
        watch.run(6000, 0, 0);
        assert_eq!(watch.run(100, 0, 10_000), None);
    }

    #[test]
    fn a_port_that_is_left_alone_is_tried_again_although_nothing_happens() {
        let mut watch = Watch::new();
        watch.run(1200, 1, 0);
        assert!(watch.run(30, 0, 10_000).is_some());
        assert_eq!(*watch.dog.watched(), BTreeSet::from([80]));
        watch.run(1300, 0, 0);
        assert!(watch.dog.left_alone(80, Family::Ipv4).is_none() && watch.dog.watched().is_empty());
    }

    #[test]
    fn handshakes_that_strangers_begin_and_reset_do_not_hide_where_the_others_complete() {
        let mut watch = Watch::new();
        watch.run(100, 1, 0);
        for _ in 0..1000 {
            // Ten times as many forged SYNs, each with its reset, a tick later.
            watch.port.begun += 10;
            watch.run(1, 1, 0);
            watch.port.ended += 10;
            watch.run(1, 0, 0);
        }
        assert!(watch.dog.is_mostly_served_here(80));
        // What a host has seen in years does not outweigh what it sees today.
        watch.run(100_000, 2, 0);
        watch.port.begun += 3 * REMEMBERED;
        watch.run(1, 0, 0);
        assert!(!watch.dog.is_mostly_served_here(80));
    }

    #[test]
    fn cookies_that_come_back_for_nothing_need_no_history() {
        let mut watch = Watch::new();
        assert_eq!(watch.run(10, 0, 100), None);
        watch.port.returned[0] += MIN_RETURNED;
        watch.port.returned_networks += MIN_RETURNED - 1;
        assert_eq!(watch.run(20, 0, 100), None, "from few networks");
        watch.port.returned_networks += 1;
        let reason = watch.run(1, 0, 100).expect("they lead to nothing");
        assert!(reason.contains("were returned over IPv4"), "{reason}");
        assert!(watch.dog.left_alone(80, Family::Ipv6).is_none(), "the other family may work");
    }

    #[test]
    fn those_of_one_network_take_longer() {
        let mut watch = Watch::new();
        watch.run(10, 0, 100);
        (watch.port.returned[0], watch.port.returned_networks) = (1000, 1);
        assert_eq!(watch.run(85, 0, 100), None);
        let reason = watch.run(20, 0, 100).expect("all clients may be of one network");
        assert!(reason.contains("1000 cookies were returned over IPv4"), "{reason}");
        let mut busy = Watch::new();
        for _ in 0..100 {
            (busy.port.returned[0], busy.port.returned_networks) = (busy.port.returned[0] + 100, 1);
            assert_eq!(busy.run(9, 0, 100).or(busy.run(1, 1, 100)), None, "somebody completes one");
        }
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

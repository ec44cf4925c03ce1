//! Challenges to SYNs for protected networks: which of their ports are challenged, and whether the SYN-ACKs of the servers
//! pass through this host.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tcpguard_common::abi::{place, port::PortChallenge, port::port_flag};

use super::{
    choice::Choice,
    flag_of,
    status::{Method, ProtectedStatus, ReturnPath},
    trigger_of,
};
use crate::{
    config::{ChallengeMode, Protect, ReturnPathChoice},
    detect::{Policy, Scope, State},
    monitor::{PortSnapshot, Snapshot},
    time::Past,
};

/// The span over which it is judged which way SYN-ACKs take.
const SPAN: Duration = Duration::from_secs(60);
/// So many handshakes tell it.
const TELLING: u64 = 8;

/// Decides for all sections.
pub(super) struct Protected {
    sections: Vec<Section>,
    choice: Choice,
}

struct Section {
    config: Protect,
    past: Past<Duration, Sums>,
    return_path: ReturnPath,
}

#[derive(Clone, Copy)]
struct Sums {
    begun: u64,
    replied: u64,
}

impl Protected {
    pub fn new(config: &[Protect]) -> Self {
        let section = |config: &Protect| Section {
            config: config.clone(),
            past: Past::new(SPAN),
            return_path: ReturnPath::default(),
        };
        Self { sections: config.iter().map(section).collect(), choice: Choice::default() }
    }

    /// Applies changed sections. What is known continues if none of them has changed.
    pub fn reconfigure(&mut self, config: &[Protect]) {
        if !self.sections.iter().map(|section| &section.config).eq(config) {
            *self = Self::new(config);
        }
    }

    /// Returns whether SYN-ACKs for any section take another way.
    pub fn has_one_way(&self) -> bool {
        self.sections.iter().any(|section| section.return_path == ReturnPath::Elsewhere)
    }

    /// Selects the ports to challenge.
    pub fn choose(&mut self, state: &State, snapshot: &Snapshot, policy: &Policy, mode: ChallengeMode, at: Duration) {
        let mut rest = &snapshot.protected[..];
        for section in &mut self.sections {
            let (ports, others) = rest.split_at(section.config.ports.len().min(rest.len()));
            rest = others;
            section.note(ports, at);
        }
        let scopes: Vec<usize> = self.section_of_each_port().collect();
        let scope_of = |port: u16| scopes.get(usize::from(port)).map_or(Scope::Host, |index| Scope::Protected(*index));
        let max_half_open = |scope: Scope| match scope {
            Scope::Protected(index) => policy.protected.get(index).map_or(u64::MAX, |(_, limits)| limits.max_half_open),
            Scope::Host | Scope::Service(_) => u64::MAX,
        };
        let all: BTreeSet<u16> = (0..scopes.len() as u16).collect();
        match mode {
            ChallengeMode::Always => self.choice.choose_all(&all, at),
            // The harm that an attack does to a server is not visible from here.
            _ => self.choice.choose(
                state,
                scope_of,
                &snapshot.protected.iter().copied().collect(),
                &all,
                true,
                max_half_open,
                at,
            ),
        }
    }

    /// Returns the terms of every place; without a method, none is challenged.
    pub fn terms(&self, method: Option<Method>, triggers: bool) -> BTreeMap<u32, Option<PortChallenge>> {
        let terms = self.section_of_each_port().enumerate().filter_map(|(port, section)| {
            let is_chosen = self.choice.chosen().contains_key(&(port as u16));
            let one_way = self.sections[section].return_path == ReturnPath::Elsewhere;
            let flags = method.filter(|_| is_chosen).map_or(0, flag_of)
                | method.filter(|_| triggers).map_or(0, trigger_of)
                | if one_way { port_flag::ONE_WAY } else { 0 };
            let terms = (flags != 0).then(|| PortChallenge { flags, ..PortChallenge::default() });
            Some((place::of_protected(port)?, terms))
        });
        terms.collect()
    }

    /// Returns the status of each section.
    pub fn status(&self, method: Option<Method>) -> Vec<ProtectedStatus> {
        let mut first = 0;
        let status = |section: &Section| {
            let ports = section.config.ports.iter().zip(first..);
            first += section.config.ports.len() as u16;
            let chosen = ports.filter(|(_, index)| method.is_some() && self.choice.chosen().contains_key(index));
            let challenged: Vec<u16> = chosen.map(|(port, _)| *port).collect();
            let method = method.filter(|_| !challenged.is_empty());
            ProtectedStatus { challenged, method, return_path: section.return_path }
        };
        self.sections.iter().map(status).collect()
    }

    /// Returns the description of a place in messages.
    pub fn describe(&self, place: u32) -> String {
        let index = (place as usize).saturating_sub(place::HOST_PLACES);
        let mut ports =
            self.sections.iter().flat_map(|Section { config, .. }| config.ports.iter().map(move |port| (config, port)));
        ports.nth(index).map_or_else(String::new, |(config, port)| format!("{}, port {port}", config.name))
    }

    fn section_of_each_port(&self) -> impl Iterator<Item = usize> {
        let sections = self.sections.iter().enumerate();
        sections.flat_map(|(index, section)| std::iter::repeat_n(index, section.config.ports.len()))
    }
}

impl Section {
    /// Judges which way SYN-ACKs take. A single one that passes through this host shows that they do: SYNs that nobody answers
    /// are no evidence of another way, since anybody can send them.
    fn note(&mut self, ports: &[PortSnapshot], at: Duration) {
        let sums = Sums {
            begun: ports.iter().map(|port| port.begun).sum(),
            replied: ports.iter().map(|port| port.replied).sum(),
        };
        if self.config.return_path == ReturnPathChoice::Elsewhere {
            self.return_path = ReturnPath::Elsewhere;
        } else if let Some((before, _)) = self.past.oldest(at) {
            if sums.replied > before.replied {
                self.return_path = ReturnPath::Here;
            } else if sums.begun.saturating_sub(before.begun) >= TELLING {
                self.return_path = ReturnPath::Elsewhere;
            }
        }
        self.past.add(at, sums);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::Phase;

    fn section(name: &str, ports: &[u16]) -> Protect {
        let networks = vec!["198.18.64.0/24".parse().expect("a network")];
        Protect { name: name.to_owned(), networks, ports: ports.to_vec(), ..Protect::default() }
    }

    fn snapshot(ports: &[(u64, u64)]) -> Snapshot {
        let port = |(index, (begun, replied)): (usize, &(u64, u64))| PortSnapshot {
            port: index as u16,
            begun: *begun,
            replied: *replied,
            ..PortSnapshot::default()
        };
        Snapshot { protected: ports.iter().enumerate().map(port).collect(), ..Snapshot::of_nothing() }
    }

    struct Gateway(Protected, u64);

    impl Gateway {
        fn new() -> Self {
            Self(Protected::new(&[section("shop", &[80, 443]), section("mail", &[25])]), 0)
        }

        fn tick(&mut self, state: &State, ports: &[(u64, u64)]) -> Vec<ProtectedStatus> {
            self.1 += 1;
            let config = crate::config::Config::parse(
                "[[protect]]\nname = \"shop\"\nnetworks = [\"198.18.64.0/24\"]\nports = [80, 443]\n\
                 [[protect]]\nname = \"mail\"\nnetworks = [\"198.18.65.0/24\"]\nports = [25]",
                "a test",
            );
            let policy = Policy::of(&config.expect("a configuration"));
            let at = Duration::from_millis(100 * self.1);
            self.0.choose(state, &snapshot(ports), &policy, ChallengeMode::Auto, at);
            self.0.status(Some(Method::Reset))
        }
    }

    fn calm() -> State {
        let mut state = State::default();
        state.protected = vec![Default::default(); 2];
        state
    }

    fn attack_on(section: usize) -> State {
        let mut state = calm();
        state.protected[section].phase = Phase::Attack;
        state.protected[section].since = Some(Duration::ZERO);
        state.kind = Some(crate::detect::Kind::Spoofed);
        state
    }

    #[test]
    fn the_ports_of_the_section_under_attack_are_challenged() {
        let mut gateway = Gateway::new();
        gateway.tick(&attack_on(0), &[(0, 0), (0, 0), (0, 0)]);
        let status = gateway.tick(&attack_on(0), &[(5, 5), (10_000, 9_000), (10_000, 9_000)]);
        assert_eq!(status[0].challenged, [443]);
        assert_eq!((status[0].method, status[1].challenged.len()), (Some(Method::Reset), 0));
        let terms = gateway.0.terms(Some(Method::Reset), false);
        assert_eq!(terms[&65_537].map(|terms| terms.flags), Some(port_flag::RESET));
        assert_eq!((terms[&65_536], terms[&65_538]), (None, None));
        let triggers = gateway.0.terms(Some(Method::Retransmit), true);
        assert_eq!(triggers[&65_538].map(|terms| terms.flags), Some(port_flag::TRIGGERS_RETRANSMIT));
    }

    #[test]
    fn handshakes_without_syn_acks_tell_that_these_take_another_way() {
        let mut gateway = Gateway::new();
        let calm = calm();
        gateway.tick(&calm, &[(0, 0), (0, 0), (0, 0)]);
        let paths = |status: Vec<ProtectedStatus>| [status[0].return_path, status[1].return_path];
        let few = gateway.tick(&calm, &[(3, 3), (0, 0), (7, 0)]);
        assert_eq!(paths(few), [ReturnPath::Here, ReturnPath::Unknown]);
        let more = gateway.tick(&calm, &[(6, 6), (4, 3), (9, 0)]);
        assert_eq!(paths(more), [ReturnPath::Here, ReturnPath::Elsewhere]);
        assert!(gateway.0.has_one_way());
        // SYNs that nobody answers show nothing.
        let few_answered = gateway.tick(&calm, &[(6000, 40), (4, 3), (9, 0)]);
        assert_eq!(paths(few_answered)[0], ReturnPath::Here);
    }

    #[test]
    fn a_server_that_answers_few_syns_of_a_flood_is_seen_nevertheless() {
        let mut gateway = Gateway::new();
        gateway.tick(&attack_on(0), &[(0, 0), (0, 0), (0, 0)]);
        let flood = gateway.tick(&attack_on(0), &[(100_000, 128), (0, 0), (0, 0)]);
        assert_eq!(flood[0].return_path, ReturnPath::Here);
        let mut dead = Gateway::new();
        dead.tick(&attack_on(0), &[(0, 0), (0, 0), (0, 0)]);
        assert_eq!(dead.tick(&attack_on(0), &[(100_000, 0), (0, 0), (0, 0)])[0].return_path, ReturnPath::Elsewhere);
    }
}

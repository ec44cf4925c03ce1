//! Selects the ports to challenge: those under an attack that blocks cannot stop, because its sources are forged or too
//! many.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    config::Service,
    detect::{Kind, Phase, Scope, State},
    monitor::{PortSnapshot, Ports},
    response::harm::is_costly,
    time::{HANDSHAKE_LIFETIME, Past},
};

/// The span over which rates are measured.
const RATE_SPAN: Duration = Duration::from_millis(450);
/// How long blocks are given to take effect.
const BLOCKS_NEED: Duration = Duration::from_secs(2);
/// A port is challenged only if it receives at least this share of all unanswered SYNs,
const PRESSED_SHARE: f64 = 0.05;
/// and at least this many per second.
const MIN_PRESSURE: f64 = 8.0;

/// Selects ports and remembers the selection.
pub struct Choice {
    past: Past<Duration, Ports>,
    /// The selected ports, and since when each is selected.
    chosen: BTreeMap<u16, Duration>,
}

/// Unanswered SYNs to one port, per second.
#[derive(Clone, Copy, Default)]
struct Unanswered {
    /// All of them.
    asked: f64,
    /// The subset that is not dropped.
    let_in: f64,
}

impl Default for Choice {
    fn default() -> Self {
        Self { past: Past::new(RATE_SPAN), chosen: BTreeMap::new() }
    }
}

impl Choice {
    /// Returns the ports to challenge, and since when each has been selected.
    pub fn chosen(&self) -> &BTreeMap<u16, Duration> {
        &self.chosen
    }

    /// Updates the selection. `open` are the ports that are served; `is_refusing` if requests are refused;
    /// `max_half_open` returns the threshold of a scope.
    #[expect(clippy::too_many_arguments, reason = "what one tick knows of the ports")]
    pub fn choose(
        &mut self,
        state: &State,
        scope_of: impl Fn(u16) -> Scope,
        ports: &Ports,
        open: &BTreeSet<u16>,
        is_refusing: bool,
        max_half_open: impl Fn(Scope) -> u64,
        at: Duration,
    ) {
        let before = self.past.oldest(at);
        let rates =
            before.filter(|_| state.phase() == Phase::Attack).map(|(before, seconds)| rates(ports, before, seconds));
        let rates = rates.unwrap_or_default();
        self.past.add(at, ports.clone());
        self.chosen.retain(|port, _| open.contains(port) && phase_of(state, scope_of(*port)) != Phase::Calm);
        if state.phase() != Phase::Attack {
            return;
        }
        let all: f64 = rates.iter().filter(|(port, _)| open.contains(port)).map(|(_, rate)| rate.asked).sum();
        let filling: BTreeSet<u16> =
            ports.busy().filter(|port| port.is_queue_filling()).map(|port| port.port).collect();
        // A queue fills slowly, too.
        let is_asked = |port: &u16| rates.binary_search_by_key(port, |(asked, _)| *asked).is_ok();
        let unasked = filling.iter().filter(|port| !is_asked(port)).map(|port| (*port, Unanswered::default()));
        for (port, rate) in rates.iter().copied().chain(unasked).filter(|(port, _)| open.contains(port)) {
            let scope = scope_of(port);
            let is_pressed = rate.asked >= MIN_PRESSURE && rate.asked >= PRESSED_SHARE * all;
            if (filling.contains(&port) || is_pressed && (is_refusing || is_costly(rate.asked)))
                && phase_of(state, scope) == Phase::Attack
                && is_beyond_blocks(state, scope, &rate, max_half_open(scope), at)
            {
                self.chosen.entry(port).or_insert(at);
            }
        }
    }

    /// Selects all ports in `open`.
    pub fn choose_all(&mut self, open: &BTreeSet<u16>, at: Duration) {
        self.chosen.retain(|port, _| open.contains(port));
        for port in open {
            self.chosen.entry(*port).or_insert(at);
        }
    }
}

/// Returns the rate of unanswered SYNs of each port that has any, in ascending order of ports.
fn rates(ports: &Ports, before: &Ports, seconds: f64) -> Vec<(u16, Unanswered)> {
    let rate = |port: &PortSnapshot| {
        let then = before.get(port.port)?;
        let ended = port.ended.saturating_sub(then.ended);
        let unanswered = |now: u64, then: u64| now.saturating_sub(then).saturating_sub(ended);
        let asked = unanswered(port.attempts(), then.attempts());
        let let_in = unanswered(port.begun, then.begun);
        let per_second = |count: u64| count as f64 / seconds;
        (asked > 0).then(|| (port.port, Unanswered { asked: per_second(asked), let_in: per_second(let_in) }))
    };
    ports.changed_since(before).filter_map(rate).collect()
}

fn is_beyond_blocks(state: &State, scope: Scope, rate: &Unanswered, max_half_open: u64, at: Duration) -> bool {
    if matches!(state.kind, Some(Kind::Spoofed | Kind::Mixed)) {
        return true;
    }
    let since = scope_state(state, scope).and_then(|scope| scope.since).unwrap_or(at);
    at.saturating_sub(since) >= BLOCKS_NEED && rate.let_in * HANDSHAKE_LIFETIME.as_secs_f64() > max_half_open as f64
}

/// Returns the scope of a port of this host.
pub(super) fn scope_of(services: &[Service], port: u16) -> Scope {
    services.iter().position(|service| service.ports.contains(&port)).map_or(Scope::Host, Scope::Service)
}

fn scope_state(state: &State, wanted: Scope) -> Option<&crate::detect::ScopeState> {
    state.scopes().find(|(scope, _)| *scope == wanted).map(|(_, state)| state)
}

fn phase_of(state: &State, scope: Scope) -> Phase {
    scope_state(state, scope).map_or(Phase::Calm, |state| state.phase)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(phase: Phase, kind: Kind) -> State {
        let mut state = State::default();
        (state.kind, state.host.phase, state.host.since) = (Some(kind), phase, Some(Duration::ZERO));
        state
    }

    fn port(port: u16, begun: u64, restrained: u64, ended: u64) -> PortSnapshot {
        PortSnapshot { port, syn: begun + restrained, begun, restrained, ended, ..PortSnapshot::default() }
    }

    struct Watch(Choice, u64);

    impl Watch {
        fn tick(&mut self, state: &State, ports: &[PortSnapshot]) -> Vec<u16> {
            self.1 += 1;
            let at = Duration::from_millis(100 * self.1);
            let ports = ports.iter().copied().collect();
            self.0.choose(state, |_| Scope::Host, &ports, &[22, 80].into(), false, |_| 500, at);
            self.0.chosen().keys().copied().collect()
        }
    }

    #[test]
    fn a_spoofed_flood_is_challenged_where_it_is() {
        let mut watch = Watch(Choice::default(), 0);
        assert!(watch.tick(&state(Phase::Calm, Kind::Spoofed), &[port(22, 0, 0, 0), port(80, 0, 0, 0)]).is_empty());
        let flood = [port(22, 1, 0, 0), port(80, 10_000, 0, 10), port(9, 10_000, 0, 0)];
        assert_eq!(watch.tick(&state(Phase::Attack, Kind::Spoofed), &flood), [80]);
        assert_eq!(watch.tick(&state(Phase::Recovering, Kind::Spoofed), &flood), [80], "it stays selected until calm");
        assert!(watch.tick(&state(Phase::Calm, Kind::Spoofed), &flood).is_empty());
    }

    #[test]
    fn a_concentrated_one_only_where_blocks_do_not_stop_it() {
        let attack = state(Phase::Attack, Kind::Concentrated);
        let mut watch = Watch(Choice::default(), 0);
        for tick in 0..60u64 {
            let blocked = [port(80, 1000, 10_000 * tick, 0)];
            assert!(watch.tick(&attack, &blocked).is_empty(), "all SYNs are dropped");
        }
        let mut watch = Watch(Choice::default(), 0);
        for tick in 0..60u64 {
            let seen = watch.tick(&attack, &[port(80, 100 * tick, 10_000 * tick, 0)]);
            assert_eq!(seen.is_empty(), tick < 19, "at tick {tick}: a thousand per second are let in");
        }
    }
}

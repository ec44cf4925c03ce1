//! Judging: a pure function of an observation, the policy, the previous state and the time.
//!
//! The host, and each service with thresholds of its own, goes through `calm` → `attack` → `recovering` → `calm`. An
//! attack begins when a present count exceeds its threshold. It ends when every incoming value has been below
//! `leave_ratio` of its threshold for `hold`; handshakes left over from the attack expire by themselves and do not
//! delay its end.

mod classify;
mod detector;
mod leftover;
mod phase;
mod policy;
mod signs;
mod thresholds;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    kernel::HalfOpen,
    monitor::{HeaderReading, Ports, PrefixReading, Pressure, Rates, Snapshot, SourceReading},
};
pub use classify::{Kind, Offender, Offenders};
pub(crate) use detector::Detector;
use leftover::{Leftover, Standing};
pub use phase::{Phase, ScopeState};
pub use policy::Policy;
pub use thresholds::{Evidence, Limits, Measure};

/// What one tick measured, as far as it is judged.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    /// The time, by the clock that judgements use.
    pub at: Duration,
    /// The values compared with the thresholds.
    pub pressure: &'a Pressure,
    /// Candidate offenders among the sources.
    pub sources: &'a [SourceReading],
    /// Candidate offenders among the prefixes.
    pub prefixes: &'a [PrefixReading],
    /// Rates of SYNs, resets and completed handshakes.
    pub rates: &'a Rates,
    /// What the headers of SYNs have in common.
    pub headers: &'a HeaderReading,
    /// The account of each port.
    pub ports: &'a Ports,
    /// The kernel's half-open handshakes.
    pub kernel_rows: &'a [HalfOpen],
}

impl<'a> Observation<'a> {
    /// Returns the observation of `snapshot`.
    pub fn of(snapshot: &'a Snapshot, at: Duration) -> Self {
        Self {
            at,
            pressure: &snapshot.pressure,
            sources: &snapshot.suspects,
            prefixes: &snapshot.suspect_prefixes,
            rates: &snapshot.rates,
            headers: &snapshot.headers,
            ports: &snapshot.ports,
            kernel_rows: &snapshot.kernel_half_open.rows,
        }
    }

    /// Returns the number of half-open handshakes in the datapath's count, over all scopes.
    fn half_open(&self) -> u64 {
        let Pressure { host, services, protected, .. } = self.pressure;
        let others = services.iter().chain(protected).map(|readings| readings.half_open.datapath);
        host.half_open.datapath + others.sum::<u64>()
    }
}

/// The host, one of the services, or protected networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All ports except those of services.
    Host,
    /// The service at this index in the policy.
    Service(usize),
    /// The networks of the `[[protect]]` section at this index.
    Protected(usize),
}

/// The state of all scopes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The host.
    pub host: ScopeState,
    /// Each service, in the order of the policy.
    pub services: Vec<ScopeState>,
    /// The networks of each `[[protect]]` section, in the order of the policy.
    #[serde(default)]
    pub protected: Vec<ScopeState>,
    /// The kind of attack; `None` while all scopes are calm.
    pub kind: Option<Kind>,
    /// The evidence for the kind, as a sentence.
    pub kind_evidence: Option<String>,
    /// The signs that accompany the attack, one sentence each.
    #[serde(default)]
    pub signs: Vec<String>,
    /// What the last attack left over.
    #[serde(skip)]
    leftover: Leftover,
}

/// A change of phase of one scope.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The scope that changed.
    pub scope: Scope,
    /// The previous phase.
    pub from: Phase,
    /// The new phase.
    pub to: Phase,
    /// The values that caused the change or, at the end of an attack, that showed it most recently.
    pub evidence: Vec<Evidence>,
}

/// The result of judging an observation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Judgement {
    /// The new state.
    pub state: State,
    /// The changes of phase.
    pub changes: Vec<Change>,
    /// The offenders; empty while all scopes are calm.
    pub offenders: Offenders,
}

impl State {
    /// Returns the most severe phase of all scopes.
    pub fn phase(&self) -> Phase {
        self.scopes().map(|(_, scope)| scope.phase).max().unwrap_or_default()
    }

    /// Returns the most severe phase of the host and its services, without the networks that it protects: what its own kernel
    /// has to do with.
    pub fn phase_here(&self) -> Phase {
        self.services.iter().map(|service| service.phase).fold(self.host.phase, Phase::max)
    }

    /// Returns when the earliest attack that is still in progress began.
    pub fn since(&self) -> Option<Duration> {
        self.scopes().filter_map(|(_, scope)| scope.since).min()
    }

    /// Returns every scope and its state, the host first.
    pub fn scopes(&self) -> impl Iterator<Item = (Scope, &ScopeState)> {
        let services = self.services.iter().enumerate().map(|(index, state)| (Scope::Service(index), state));
        let protected = self.protected.iter().enumerate().map(|(index, state)| (Scope::Protected(index), state));
        std::iter::once((Scope::Host, &self.host)).chain(services).chain(protected)
    }

    /// Returns the state for a changed set of services. A service with the same `ports` keeps its state.
    #[must_use]
    pub fn with_services(&self, before: &[Vec<u16>], now: &[Vec<u16>]) -> Self {
        let of = |ports: &Vec<u16>| {
            let place = before.iter().position(|other| other == ports)?;
            self.services.get(place).cloned()
        };
        Self { services: now.iter().map(|ports| of(ports).unwrap_or_default()).collect(), ..self.clone() }
    }

    /// Returns the state for a changed set of `[[protect]]` sections. One with the same name keeps its state.
    #[must_use]
    pub fn with_protected(&self, before: &[String], now: &[String]) -> Self {
        let of = |name: &String| {
            let place = before.iter().position(|other| other == name)?;
            self.protected.get(place).cloned()
        };
        Self { protected: now.iter().map(|name| of(name).unwrap_or_default()).collect(), ..self.clone() }
    }

    fn scope(&self, scope: Scope) -> ScopeState {
        match scope {
            Scope::Host => self.host.clone(),
            Scope::Service(index) => self.services.get(index).cloned().unwrap_or_default(),
            Scope::Protected(index) => self.protected.get(index).cloned().unwrap_or_default(),
        }
    }
}

/// Returns how many more handshakes may be half open, in the scope that has least room, before that exceeds a threshold.
pub fn room(policy: &Policy, pressure: &Pressure, state: &State) -> u64 {
    let rooms = policy.scopes(pressure).map(|(scope, limits, readings)| state.scope(scope).room(readings, limits));
    rooms.min().unwrap_or(0)
}

/// Judges `observation`, given the previous `state`.
pub fn detect(policy: &Policy, observation: &Observation, state: &State) -> Judgement {
    let mut next = State { services: Vec::new(), protected: Vec::new(), ..state.clone() };
    let mut changes = Vec::new();
    for (scope, limits, readings) in policy.scopes(observation.pressure) {
        let before = state.scope(scope);
        let after = before.advance(readings, limits, observation.at);
        if after.phase != before.phase {
            let evidence = if after.phase == Phase::Attack { after.evidence.clone() } else { before.evidence.clone() };
            changes.push(Change { scope, from: before.phase, to: after.phase, evidence });
        }
        match scope {
            Scope::Host => next.host = after,
            Scope::Service(_) => next.services.push(after),
            Scope::Protected(_) => next.protected.push(after),
        }
    }
    next.leftover.expire(observation);
    if next.phase() == Phase::Calm {
        if state.phase() != Phase::Calm {
            next.leftover = Leftover::of(observation);
        }
        (next.kind, next.kind_evidence, next.signs) = (None, None, Vec::new());
        return Judgement { state: next, changes, offenders: Offenders::default() };
    }
    let classification = classify::classify(policy, observation, &Standing::of(observation, &next));
    // Handshakes left over from an attack become less and less typical of its kind.
    if next.kind.is_none() || (next.phase() == Phase::Attack && classification.is_telling) {
        (next.kind, next.kind_evidence) = (Some(classification.kind), Some(classification.evidence));
    }
    let signs = signs::signs(observation);
    // As with the kind, those that the attack showed last are kept to its end.
    if !signs.is_empty() {
        next.signs = signs;
    }
    Judgement { state: next, changes, offenders: classification.offenders }
}

#[cfg(test)]
mod tests;

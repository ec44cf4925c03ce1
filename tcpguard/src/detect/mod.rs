//! Judging: a pure function of what was observed, the policy, the state before, and the time.
//!
//! The host, and each service with thresholds of its own, goes `calm` → `attack` → `recovering` → `calm`.
//! It enters an attack when a threshold is exceeded, strictly, by a count as it stands; it leaves when
//! every value has been below `leave_ratio` of its threshold for `hold`, by what still comes: handshakes
//! that an attack has left behind expire by themselves and hold nothing up.

mod classify;
mod phase;
mod thresholds;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    config::Config,
    kernel::HalfOpen,
    monitor::{PrefixReading, Pressure, Snapshot, SourceReading},
};
pub use classify::{Kind, Offence, Offenders};
pub use phase::{Phase, ScopeState};
pub use thresholds::{Evidence, Limits, Measure};

/// What is judged by.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// For all ports but those of services.
    pub host: Limits,
    /// For each service: its ports, and what they may do.
    pub services: Vec<(Vec<u16>, Limits)>,
    /// Half-open handshakes that one source may have.
    pub source_half_open: u64,
    /// Half-open handshakes that one network may have.
    pub prefix_half_open: u64,
    /// The lengths of networks, for IPv4 and IPv6.
    pub prefix_lengths: (u8, u8),
}

impl Policy {
    /// That of a configuration.
    pub fn of(config: &Config) -> Self {
        let thresholds = &config.thresholds;
        let host = Limits {
            max_half_open: thresholds.max_half_open.into(),
            max_retried: thresholds.max_half_open_retried.into(),
            max_refused: Some(thresholds.max_ports_exhausted.into()),
            max_malformed: Some(thresholds.max_half_open.into()),
            leave_ratio: thresholds.leave_ratio,
            hold: thresholds.hold,
        };
        let services = config.services.iter().map(|service| {
            let max_half_open = u64::from(service.max_half_open);
            // As many of them may be retried as of the host's.
            let max_retried = max_half_open * host.max_retried / host.max_half_open.max(1);
            let limits = Limits { max_half_open, max_retried, max_refused: None, max_malformed: None, ..host.clone() };
            (service.ports.clone(), limits)
        });
        Self {
            services: services.collect(),
            host,
            source_half_open: config.source.max_half_open.into(),
            prefix_half_open: config.source.prefix_max_half_open.into(),
            prefix_lengths: (config.source.prefix_v4, config.source.prefix_v6),
        }
    }

    /// The ports of each service.
    pub fn service_ports(&self) -> Vec<Vec<u16>> {
        self.services.iter().map(|(ports, _)| ports.clone()).collect()
    }
}

/// What was observed.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    /// When, by the clock that judgements go by.
    pub at: Duration,
    /// What thresholds are compared with.
    pub pressure: &'a Pressure,
    /// Sources that may have to answer for it.
    pub sources: &'a [SourceReading],
    /// Networks that may have to.
    pub prefixes: &'a [PrefixReading],
    /// Different sources of SYNs a second.
    pub distinct_sources: f64,
    /// The kernel's half-open handshakes.
    pub kernel_rows: &'a [HalfOpen],
}

impl<'a> Observation<'a> {
    /// What a snapshot observed.
    pub fn of(snapshot: &'a Snapshot, at: Duration) -> Self {
        Self {
            at,
            pressure: &snapshot.pressure,
            sources: &snapshot.suspects,
            prefixes: &snapshot.suspect_prefixes,
            distinct_sources: snapshot.rates.distinct_sources,
            kernel_rows: &snapshot.kernel_half_open.rows,
        }
    }

    /// Half-open handshakes by the datapath's count.
    fn half_open(&self) -> u64 {
        let services = self.pressure.services.iter().map(|readings| readings.half_open.datapath);
        self.pressure.host.half_open.datapath + services.sum::<u64>()
    }
}

/// The host, or one of the services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All ports but those of services.
    Host,
    /// The service of this place in the policy.
    Service(usize),
}

/// How things stand.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The host.
    pub host: ScopeState,
    /// Each service, in the policy's order.
    pub services: Vec<ScopeState>,
    /// What kind of attack it is, while there is one.
    pub kind: Option<Kind>,
    /// What shows the kind.
    pub kind_evidence: Option<String>,
}

/// A scope went from one phase to another.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Which.
    pub scope: Scope,
    /// What it was.
    pub from: Phase,
    /// What it is now.
    pub to: Phase,
    /// What moved it.
    pub evidence: Vec<Evidence>,
}

/// What follows from an observation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Judgement {
    /// How things stand now.
    pub state: State,
    /// What changed.
    pub changes: Vec<Change>,
    /// Who has to answer for an attack; nobody while there is none.
    pub offenders: Offenders,
}

impl State {
    /// The gravest phase of all scopes.
    pub fn phase(&self) -> Phase {
        self.scopes().map(|(_, scope)| scope.phase).max().unwrap_or_default()
    }

    /// Since when some scope has been under attack.
    pub fn since(&self) -> Option<Duration> {
        self.scopes().filter_map(|(_, scope)| scope.since).min()
    }

    /// Every scope.
    pub fn scopes(&self) -> impl Iterator<Item = (Scope, &ScopeState)> {
        let services = self.services.iter().enumerate().map(|(index, state)| (Scope::Service(index), state));
        std::iter::once((Scope::Host, &self.host)).chain(services)
    }

    /// The same, where the services of other `ports` are told apart: each keeps what was known of it.
    #[must_use]
    pub fn with_services(&self, before: &[Vec<u16>], now: &[Vec<u16>]) -> Self {
        let of = |ports: &Vec<u16>| {
            let place = before.iter().position(|other| other == ports)?;
            self.services.get(place).cloned()
        };
        Self { services: now.iter().map(|ports| of(ports).unwrap_or_default()).collect(), ..self.clone() }
    }

    fn scope(&self, scope: Scope) -> ScopeState {
        match scope {
            Scope::Host => self.host.clone(),
            Scope::Service(index) => self.services.get(index).cloned().unwrap_or_default(),
        }
    }
}

/// What follows from `observation`, after `state`.
pub fn detect(policy: &Policy, observation: &Observation, state: &State) -> Judgement {
    let mut next = State { services: Vec::new(), ..state.clone() };
    let mut changes = Vec::new();
    let services = policy.services.iter().zip(&observation.pressure.services).enumerate();
    let services = services.map(|(index, ((_, limits), readings))| (Scope::Service(index), limits, readings));
    for (scope, limits, readings) in
        std::iter::once((Scope::Host, &policy.host, &observation.pressure.host)).chain(services)
    {
        let before = state.scope(scope);
        let after = before.advance(readings, limits, observation.at);
        if after.phase != before.phase {
            let evidence = if after.phase == Phase::Attack { after.evidence.clone() } else { before.evidence.clone() };
            changes.push(Change { scope, from: before.phase, to: after.phase, evidence });
        }
        match scope {
            Scope::Host => next.host = after,
            Scope::Service(_) => next.services.push(after),
        }
    }
    if next.phase() == Phase::Calm {
        (next.kind, next.kind_evidence) = (None, None);
        return Judgement { state: next, changes, offenders: Offenders::default() };
    }
    let classification = classify::classify(policy, observation);
    // What an attack has left behind says less and less of its kind.
    if next.kind.is_none() || (next.phase() == Phase::Attack && classification.is_telling) {
        (next.kind, next.kind_evidence) = (Some(classification.kind), Some(classification.evidence));
    }
    Judgement { state: next, changes, offenders: classification.offenders }
}

#[cfg(test)]
mod tests;

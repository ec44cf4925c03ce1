//! What is kept between judgements, and over restarts.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use tracing::info;

use crate::{
    config::Config,
    detect::{Judgement, Observation, Phase, Policy, State, detect},
    events::{EventKind, EventLog, Note},
    monitor::Snapshot,
    store::{AttackSoFar, Moment, Situation},
};

/// An attack that was going on so long ago is over; one less long ago goes on until it is seen to be over.
const RESUMED_WITHIN: Duration = Duration::from_secs(600);
/// What comes is known so long after the start.
const MEASURED_WITHIN: Duration = Duration::from_secs(1);
/// Time between two notes of how things stand, while they are not calm.
const NOTED_EVERY: Duration = Duration::from_secs(5);

/// Judges snapshots, one after the other.
pub(crate) struct Judge {
    policy: Policy,
    state: State,
    started: Instant,
    /// The clock that judgements go by goes on over restarts: this is what it was at the start.
    offset: Duration,
    /// The phase, and since when it is.
    phase_since: (Phase, Timestamp),
    attack_since: Option<Timestamp>,
    /// What was told of the attack that was going on when this began.
    pub attack: Option<AttackSoFar>,
    noted: Option<Duration>,
}

impl Judge {
    /// Goes on from how things stood when that was last noted.
    pub fn resume(config: &Config, situation: Option<Situation>, events: &EventLog) -> Self {
        let policy = Policy::of(config);
        let mut judge = Self {
            policy,
            state: State::default(),
            started: Instant::now(),
            offset: Duration::ZERO,
            phase_since: (Phase::Calm, Timestamp::now()),
            attack_since: None,
            attack: None,
            noted: None,
        };
        let Some(situation) = situation else { return judge };
        let ago = situation.noted.elapsed(&Moment::now());
        judge.offset = situation.at + ago;
        let was_calm = situation.state.phase() == Phase::Calm;
        if was_calm || ago < RESUMED_WITHIN {
            judge.state = situation.state.with_services(&situation.services, &judge.policy.service_ports());
            judge.attack_since = situation.attack_since;
            judge.attack = situation.attack;
            judge.phase_since = (judge.state.phase(), situation.state_since);
            if !was_calm {
                info!(
                    "an attack was going on {} s ago: it is taken to go on until it is seen to be over",
                    ago.as_secs()
                );
            }
        } else if let Some(attack) = situation.attack {
            let message = "the attack ended while tcpguard did not run";
            events.record(Note::new(EventKind::AttackEnded, message).attack(attack.kind.map(|kind| kind.name())));
        }
        judge
    }

    /// Judges by another configuration from now on. What is known of a service stays with its ports.
    pub fn take_up(&mut self, config: &Config) {
        let before = self.policy.service_ports();
        self.policy = Policy::of(config);
        self.state = self.state.with_services(&before, &self.policy.service_ports());
    }

    /// What time it is by the clock that judgements go by.
    pub fn now(&self) -> Duration {
        self.offset + self.started.elapsed()
    }

    /// How things stand.
    pub fn phase(&self) -> Phase {
        self.state.phase()
    }

    /// Since when things stand so.
    pub const fn state_since(&self) -> Timestamp {
        self.phase_since.1
    }

    /// When the attack began that is going on.
    pub const fn attack_since(&self) -> Option<Timestamp> {
        self.attack_since
    }

    /// Judges a snapshot.
    pub fn judge(&mut self, snapshot: &Snapshot, at: Duration) -> Judgement {
        if self.started.elapsed() < MEASURED_WITHIN && self.phase() != Phase::Calm {
            // An attack of before the restart: what comes at this moment is not known yet.
            return Judgement { state: self.state.clone(), ..Judgement::default() };
        }
        let judgement = detect(&self.policy, &Observation::of(snapshot, at), &self.state);
        self.state = judgement.state.clone();
        self.attack_since = self.state.since().map(|_| self.attack_since.unwrap_or(snapshot.clock.now()));
        if self.state.phase() != self.phase_since.0 {
            self.phase_since = (self.state.phase(), snapshot.clock.now());
        }
        judgement
    }

    /// Whether how things stand is to be written down now.
    pub fn is_worth_noting(&mut self, judgement: &Judgement, at: Duration) -> bool {
        let is_due = self.noted.is_none_or(|noted| at.saturating_sub(noted) >= NOTED_EVERY);
        let is_worth = !judgement.changes.is_empty() || (is_due && self.phase() != Phase::Calm);
        if is_worth {
            self.noted = Some(at);
        }
        is_worth
    }

    /// How things stand, to be written down.
    pub fn situation(&self, attack: Option<AttackSoFar>) -> Situation {
        Situation {
            noted: Moment::now(),
            at: self.now(),
            state: self.state.clone(),
            services: self.policy.service_ports(),
            state_since: self.phase_since.1,
            attack_since: self.attack_since,
            attack,
        }
    }
}

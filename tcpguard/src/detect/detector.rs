//! Judging one snapshot after another, and the state kept between judgements and over restarts.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use tracing::info;

use crate::{
    config::Config,
    detect::{Judgement, Observation, Phase, Policy, State, detect, room},
    events::{EventKind, EventLog, Note},
    monitor::Snapshot,
    store::{AttackSoFar, Situation},
    time::PersistentTime,
};

/// An attack that was in progress longer ago than this is over; a more recent one continues until it is found to be
/// over.
const RESUMED_WITHIN: Duration = Duration::from_secs(600);
/// How long after the start incoming values are not known yet.
const MEASURED_WITHIN: Duration = Duration::from_secs(1);
/// The interval at which the situation is saved while it is not calm.
const NOTED_EVERY: Duration = Duration::from_secs(5);

/// Judges snapshots, one after the other.
pub(crate) struct Detector {
    policy: Policy,
    state: State,
    started: Instant,
    /// The clock that judgements use continues over restarts; this was its value at the start.
    offset: Duration,
    /// The present phase, and when it began.
    phase_since: (Phase, Timestamp),
    attack_since: Option<Timestamp>,
    /// What was reported about the attack in progress at the start.
    pub attack: Option<AttackSoFar>,
    noted: Option<Duration>,
}

impl Detector {
    /// Continues from the saved situation of the previous daemon.
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
        let ago = situation.noted.elapsed(&PersistentTime::now());
        judge.offset = situation.at + ago;
        let was_calm = situation.state.phase() == Phase::Calm;
        if was_calm || ago < RESUMED_WITHIN {
            judge.state = situation.state.with_services(&situation.services, &judge.policy.service_ports());
            judge.attack_since = situation.attack_since;
            judge.attack = situation.attack;
            judge.phase_since = (judge.state.phase(), situation.state_since);
            if !was_calm {
                info!("an attack was in progress {} s ago: it continues until it is found to be over", ago.as_secs());
            }
        } else if let Some(attack) = situation.attack {
            let message = "the attack ended while tcpguard was not running";
            events.record(Note::new(EventKind::AttackEnded, message).attack(attack.kind.map(|kind| kind.name())));
        }
        judge
    }

    /// Applies a changed configuration. The state of a service is kept if its ports are the same.
    pub fn reconfigure(&mut self, config: &Config) {
        let before = self.policy.service_ports();
        self.policy = Policy::of(config);
        self.state = self.state.with_services(&before, &self.policy.service_ports());
    }

    /// Returns the time by the clock that judgements use.
    pub fn now(&self) -> Duration {
        self.offset + self.started.elapsed()
    }

    /// Returns the present phase, the most severe of all scopes.
    pub fn phase(&self) -> Phase {
        self.state.phase()
    }

    /// Returns when the present phase began.
    pub const fn state_since(&self) -> Timestamp {
        self.phase_since.1
    }

    /// Returns when the attack in progress began.
    pub const fn attack_since(&self) -> Option<Timestamp> {
        self.attack_since
    }

    /// Judges a snapshot.
    pub fn judge(&mut self, snapshot: &Snapshot, at: Duration) -> Judgement {
        if self.started.elapsed() < MEASURED_WITHIN && self.phase() != Phase::Calm {
            // An attack from before the restart: the incoming values are not known yet.
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

    /// Returns how many more handshakes may be half open before that exceeds a threshold.
    pub fn room(&self, snapshot: &Snapshot) -> u64 {
        room(&self.policy, &snapshot.pressure, &self.state)
    }

    /// Returns `true` if the situation should be saved now.
    pub fn is_worth_saving(&mut self, judgement: &Judgement, at: Duration) -> bool {
        let is_due = self.noted.is_none_or(|noted| at.saturating_sub(noted) >= NOTED_EVERY);
        let is_worth = !judgement.changes.is_empty() || (is_due && self.phase() != Phase::Calm);
        if is_worth {
            self.noted = Some(at);
        }
        is_worth
    }

    /// Returns the situation to be saved.
    pub fn situation(&self, attack: Option<AttackSoFar>) -> Situation {
        Situation {
            noted: PersistentTime::now(),
            at: self.now(),
            state: self.state.clone(),
            services: self.policy.service_ports(),
            state_since: self.phase_since.1,
            attack_since: self.attack_since,
            attack,
        }
    }
}

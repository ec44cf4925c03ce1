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
            let state = situation.state.with_services(&situation.services, &judge.policy.service_ports());
            judge.state = state.with_protected(&situation.protected, &judge.policy.protected_names());
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
        let before = std::mem::replace(&mut self.policy, Policy::of(config));
        let state = self.state.with_services(&before.service_ports(), &self.policy.service_ports());
        self.state = state.with_protected(&before.protected_names(), &self.policy.protected_names());
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
            protected: self.policy.protected_names(),
            state_since: self.phase_since.1,
            attack_since: self.attack_since,
            attack,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        detect::Kind,
        monitor::{HalfOpenCounts, Pressure, Readings},
    };

    const MINUTE: Duration = Duration::from_secs(60);

    fn config(services: &str) -> Config {
        Config::parse(services, "tcpguard.toml").expect("a configuration")
    }

    /// A snapshot with this many half-open handshakes.
    fn snapshot(half_open: u64) -> Snapshot {
        let counts = HalfOpenCounts { datapath: half_open, ..HalfOpenCounts::default() };
        let host = Readings { half_open: counts, half_open_coming: half_open, ..Readings::default() };
        Snapshot { pressure: Pressure { host, ..Pressure::default() }, ..Snapshot::of_nothing() }
    }

    fn detector() -> Detector {
        Detector::resume(&Config::default(), None, &EventLog::in_memory())
    }

    /// The situation of a daemon whose host is under attack.
    fn under_attack() -> Situation {
        let mut detector = detector();
        detector.judge(&snapshot(100_000), detector.now());
        assert_eq!(detector.phase(), Phase::Attack);
        let attack = AttackSoFar { since: Duration::ZERO, kind: Some(Kind::Spoofed), syn: 1, dropped: 2, blocked: 3 };
        detector.situation(Some(attack))
    }

    /// Returns the daemon that starts when `situation` is this old, and the number of events that it recorded.
    fn resumed(situation: &Situation, ago: Duration) -> (Detector, usize) {
        let noted = PersistentTime::before(ago);
        let events = EventLog::in_memory();
        let detector = Detector::resume(&Config::default(), Some(Situation { noted, ..situation.clone() }), &events);
        (detector, events.list(None, 10).len())
    }

    #[test]
    fn an_attack_goes_on_over_a_restart() {
        let situation = Situation { at: MINUTE, ..under_attack() };
        let (mut detector, events) = resumed(&situation, RESUMED_WITHIN - Duration::from_secs(1));
        assert_eq!((detector.phase(), events), (Phase::Attack, 0));
        assert_eq!(detector.attack, situation.attack);
        assert_eq!(detector.attack_since(), situation.attack_since);
        assert_eq!(detector.state_since(), situation.state_since);
        let now = detector.now();
        let past = MINUTE + RESUMED_WITHIN - Duration::from_secs(1);
        assert!((past..past + MINUTE).contains(&now), "{now:?}");
        // What comes in is not known in the first second.
        assert_eq!(detector.judge(&snapshot(0), now).state.phase(), Phase::Attack);
        detector.started = detector.started.checked_sub(MEASURED_WITHIN).expect("a time");
        assert_eq!(detector.judge(&snapshot(0), now).state.phase(), Phase::Recovering);
    }

    #[test]
    fn an_attack_of_long_ago_ended_meanwhile() {
        let (detector, events) = resumed(&under_attack(), RESUMED_WITHIN);
        assert_eq!((detector.phase(), events), (Phase::Calm, 1));
        assert_eq!((&detector.attack, detector.attack_since()), (&None, None));
    }

    #[test]
    fn calm_is_kept_whenever_it_was() {
        let past = detector().situation(None);
        let (detector, events) = resumed(&past, 2 * RESUMED_WITHIN);
        assert_eq!((detector.phase(), events), (Phase::Calm, 0));
        assert_eq!(detector.state_since(), past.state_since);
    }

    #[test]
    fn times_of_phases_are_kept() {
        let mut detector = detector();
        let first = snapshot(100_000);
        detector.judge(&first, MINUTE);
        let began = first.clock.now();
        assert_eq!((detector.attack_since(), detector.state_since()), (Some(began), began));
        detector.judge(&snapshot(100_000), MINUTE + Duration::from_secs(1));
        assert_eq!((detector.attack_since(), detector.state_since()), (Some(began), began));
        detector.started = detector.started.checked_sub(MEASURED_WITHIN).expect("a time");
        let last = snapshot(0);
        detector.judge(&last, MINUTE + Duration::from_secs(2));
        assert_eq!((detector.attack_since(), detector.state_since()), (Some(began), last.clock.now()));
    }

    #[test]
    fn changes_and_now_and_then_an_attack_are_worth_saving() {
        let mut detector = detector();
        let judgement = detector.judge(&snapshot(0), MINUTE);
        assert!(!detector.is_worth_saving(&judgement, MINUTE));
        let judgement = detector.judge(&snapshot(100_000), MINUTE);
        assert!(detector.is_worth_saving(&judgement, MINUTE));
        let judgement = detector.judge(&snapshot(100_000), MINUTE);
        let soon = MINUTE + NOTED_EVERY - Duration::from_millis(1);
        assert!(!detector.is_worth_saving(&judgement, soon));
        assert!(detector.is_worth_saving(&judgement, MINUTE + NOTED_EVERY));
        assert!(!detector.is_worth_saving(&judgement, soon + NOTED_EVERY));
    }

    #[test]
    fn a_service_whose_ports_stay_keeps_its_state() {
        let services = |ports: &[u16]| {
            config(&ports.iter().map(|port| format!("[[service]]\nports = [{port}]\n")).collect::<String>())
        };
        let mut detector = Detector::resume(&services(&[443]), None, &EventLog::in_memory());
        let Readings { half_open, half_open_coming, .. } = snapshot(100_000).pressure.host;
        let of_service = Readings { half_open, half_open_coming, ..Readings::default() };
        let mut busy = snapshot(0);
        busy.pressure.services = vec![of_service];
        detector.judge(&busy, MINUTE);
        assert_eq!(detector.phase(), Phase::Attack);
        let situation = detector.situation(None);
        assert_eq!(situation.services, [[443]]);
        detector.reconfigure(&services(&[80, 443]));
        assert_eq!(detector.situation(None).services, [[80], [443]]);
        assert_eq!(detector.phase(), Phase::Attack);
        detector.reconfigure(&services(&[80]));
        assert_eq!(detector.phase(), Phase::Calm);
        // The same over a restart.
        let events = EventLog::in_memory();
        assert_eq!(Detector::resume(&services(&[80]), Some(situation.clone()), &events).phase(), Phase::Calm);
        assert_eq!(Detector::resume(&services(&[80, 443]), Some(situation), &events).phase(), Phase::Attack);
    }

    #[test]
    fn there_is_room_up_to_the_threshold() {
        assert_eq!(detector().room(&snapshot(100)), 400);
    }
}

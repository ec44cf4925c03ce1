//! What happened: kept in memory for those who ask, told at once to those who follow, and written to the
//! store, which survives restarts. A flood does not become a flood of events: each kind has a rate.

mod limit;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use documented::DocumentedVariants;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tracing::info;
use utoipa::ToSchema;

use crate::store::{Record, Store};
use limit::RateLimit;

/// Events that are kept in memory.
pub const MOST_KEPT: usize = 10_000;
/// The greatest id that readers of JSON agree on (2^53 − 1).
pub const GREATEST_ID: u64 = (1 << 53) - 1;
/// Events that one who follows may fall behind.
const MOST_BEHIND: usize = 1024;

/// What happened.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema, DocumentedVariants,
)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// An attack began.
    AttackStarted,
    /// It is over.
    AttackEnded,
    /// The host or a service went from one phase to another.
    StateChanged,
    /// The attack turned out to be of another kind.
    KindChanged,
    /// A source was blocked.
    SourceBlocked,
    /// A network was blocked.
    PrefixBlocked,
    /// A block was lifted by an operator.
    BlockLifted,
    /// The first SYN of a source was dropped.
    FirstDrop,
    /// A list changed.
    ListChanged,
    /// A file of a list could not be read, or has lines that cannot.
    ListProblem,
    /// A kernel setting was changed.
    KernelSettingChanged,
    /// A kernel setting was put back.
    KernelSettingRestored,
    /// An application accepts too slowly.
    SlowApplication,
    /// What would make a backlog large enough.
    BacklogAdvice,
    /// The datapath began to challenge by itself.
    ChallengeTriggered,
    /// A port is not challenged, or not any more.
    ChallengeEnded,
    /// SYNs are challenged by something less than cookies.
    ChallengeDegraded,
    /// The configuration was read again.
    ConfigReloaded,
    /// The clock was set, or the host slept.
    ClockJumped,
    /// Somebody was not told of an attack.
    NotifyFailed,
    /// Events of some kind were left out, since there were too many.
    EventsLeftOut,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [Self; 21] = [
        Self::AttackStarted,
        Self::AttackEnded,
        Self::StateChanged,
        Self::KindChanged,
        Self::SourceBlocked,
        Self::PrefixBlocked,
        Self::BlockLifted,
        Self::FirstDrop,
        Self::ListChanged,
        Self::ListProblem,
        Self::KernelSettingChanged,
        Self::KernelSettingRestored,
        Self::SlowApplication,
        Self::BacklogAdvice,
        Self::ChallengeTriggered,
        Self::ChallengeEnded,
        Self::ChallengeDegraded,
        Self::ConfigReloaded,
        Self::ClockJumped,
        Self::NotifyFailed,
        Self::EventsLeftOut,
    ];

    /// As it is shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AttackStarted => "attack_started",
            Self::AttackEnded => "attack_ended",
            Self::StateChanged => "state_changed",
            Self::KindChanged => "kind_changed",
            Self::SourceBlocked => "source_blocked",
            Self::PrefixBlocked => "prefix_blocked",
            Self::BlockLifted => "block_lifted",
            Self::FirstDrop => "first_drop",
            Self::ListChanged => "list_changed",
            Self::ListProblem => "list_problem",
            Self::KernelSettingChanged => "kernel_setting_changed",
            Self::KernelSettingRestored => "kernel_setting_restored",
            Self::SlowApplication => "slow_application",
            Self::BacklogAdvice => "backlog_advice",
            Self::ChallengeTriggered => "challenge_triggered",
            Self::ChallengeEnded => "challenge_ended",
            Self::ChallengeDegraded => "challenge_degraded",
            Self::ConfigReloaded => "config_reloaded",
            Self::ClockJumped => "clock_jumped",
            Self::NotifyFailed => "notify_failed",
            Self::EventsLeftOut => "events_left_out",
        }
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Grows with every event, over restarts too.
    pub id: u64,
    /// When.
    pub time: Timestamp,
    /// What.
    pub kind: EventKind,
    /// In a sentence.
    pub message: String,
    /// Whom or what it is about: an address, a network, a setting, a port.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub subject: Option<String>,
    /// The kind of attack.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub attack: Option<String>,
    /// What shows it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub evidence: Vec<String>,
    /// True where it would have been done, but was only reported (`syn_attack_protect`).
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub watch_only: bool,
}

/// An event that has not been recorded yet.
#[derive(Clone, Debug)]
pub struct Note(Event);

impl Note {
    /// That this happened.
    pub fn new(kind: EventKind, message: impl Into<String>) -> Self {
        Self(Event {
            id: 0,
            time: Timestamp::now(),
            kind,
            message: message.into(),
            subject: None,
            attack: None,
            evidence: Vec::new(),
            watch_only: false,
        })
    }

    /// About this.
    #[must_use]
    pub fn about(mut self, subject: impl ToString) -> Self {
        self.0.subject = Some(subject.to_string());
        self
    }

    /// In an attack of this kind.
    #[must_use]
    pub fn attack(mut self, kind: Option<&str>) -> Self {
        self.0.attack = kind.map(str::to_owned);
        self
    }

    /// Which this shows.
    #[must_use]
    pub fn evidence(mut self, evidence: Vec<String>) -> Self {
        self.0.evidence = evidence;
        self
    }

    /// Only reported, not done.
    #[must_use]
    pub const fn watch_only(mut self, watch_only: bool) -> Self {
        self.0.watch_only = watch_only;
        self
    }
}

/// Where events are recorded; copies share it.
#[derive(Clone)]
pub struct EventLog(Arc<Shared>);

struct Shared {
    state: Mutex<Recorded>,
    followers: broadcast::Sender<Arc<Event>>,
    store: Store,
}

#[derive(Default)]
struct Recorded {
    events: VecDeque<Arc<Event>>,
    last_id: u64,
    limit: RateLimit,
}

impl EventLog {
    /// In memory alone.
    pub fn in_memory() -> Self {
        Self::new(Store::default(), Vec::new())
    }

    /// With those of before, and a store that keeps them.
    pub fn new(store: Store, past: Vec<Event>) -> Self {
        let last_id = past.last().map_or(0, |event| event.id);
        let events = past.into_iter().map(Arc::new).collect();
        let state = Mutex::new(Recorded { events, last_id, limit: RateLimit::default() });
        Self(Arc::new(Shared { state, followers: broadcast::channel(MOST_BEHIND).0, store }))
    }

    /// Records `note`, unless there have been too many of its kind.
    pub fn record(&self, note: Note) {
        let mut state = self.lock();
        if state.limit.admits(note.0.kind, note.0.time) {
            self.keep(&mut state, note);
        }
    }

    /// Says what was left out, once there is room again.
    pub fn tick(&self) {
        let mut state = self.lock();
        for (kind, left_out) in state.limit.take_left_out(Timestamp::now()) {
            let message = format!("{left_out} more events of the kind {} were left out", kind.name());
            self.keep(&mut state, Note::new(EventKind::EventsLeftOut, message).about(kind.name()));
        }
    }

    fn keep(&self, state: &mut Recorded, Note(mut event): Note) {
        state.last_id += 1;
        event.id = state.last_id;
        info!("{}{}", if event.watch_only { "would be: " } else { "" }, event.message);
        let event = Arc::new(event);
        if state.events.len() == MOST_KEPT {
            state.events.pop_front();
        }
        state.events.push_back(Arc::clone(&event));
        self.0.store.write(Record::Event(Arc::clone(&event)));
        // Nobody may be following.
        self.0.followers.send(event).ok();
    }

    /// The first `limit` events after `since`; without that, the last ones. Oldest first.
    pub fn list(&self, since: Option<Since>, limit: usize) -> Vec<Arc<Event>> {
        let state = self.lock();
        let Some(since) = since else {
            let skipped = state.events.len().saturating_sub(limit);
            return state.events.iter().skip(skipped).cloned().collect();
        };
        state.events.iter().filter(|event| since.is_before(event)).take(limit).cloned().collect()
    }

    /// Hears of events from now on.
    pub fn follow(&self) -> broadcast::Receiver<Arc<Event>> {
        self.0.followers.subscribe()
    }

    /// Waits until the store has written what was recorded.
    pub fn flush(&self) {
        self.0.store.flush();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Recorded> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// From when on events are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// After the event of this id.
    Id(u64),
    /// After this moment.
    Time(Timestamp),
}

impl Since {
    fn is_before(self, event: &Event) -> bool {
        match self {
            Self::Id(id) => event.id > id,
            Self::Time(time) => event.time > time,
        }
    }
}

impl std::str::FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let id = text.parse().ok().filter(|id| *id <= GREATEST_ID).map(Self::Id);
        id.or_else(|| text.parse().ok().map(Self::Time))
            .ok_or_else(|| format!("\"{text}\" is neither an event's id nor a time such as 2026-11-20T08:00:00Z"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(n: usize) -> Note {
        Note::new(EventKind::ListChanged, format!("change {n}"))
    }

    #[test]
    fn memory_is_bounded_and_order_kept() {
        let log = EventLog::in_memory();
        for n in 0..MOST_KEPT + 500 {
            log.keep(&mut log.lock(), note(n));
        }
        let all = log.list(None, usize::MAX);
        assert_eq!((all.len(), all[0].id, all[MOST_KEPT - 1].id), (MOST_KEPT, 501, MOST_KEPT as u64 + 500));
        let after = log.list(Some(Since::Id(600)), 2);
        assert_eq!(after.iter().map(|event| event.id).collect::<Vec<_>>(), [601, 602]);
    }

    #[test]
    fn a_flood_of_events_is_counted_and_told_of() {
        let log = EventLog::in_memory();
        for n in 0..10_000 {
            log.record(note(n));
        }
        let kept = log.list(None, usize::MAX).len();
        assert!((50..200).contains(&kept), "{kept}");
        log.tick();
        let last = log.list(None, 1).remove(0);
        assert_eq!((last.kind, last.subject.as_deref()), (EventKind::EventsLeftOut, Some("list_changed")));
        let left_out: usize = last.message.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        assert_eq!(left_out + kept, 10_000);
    }

    #[test]
    fn since_is_an_id_or_a_time() {
        assert_eq!("17".parse(), Ok(Since::Id(17)));
        assert!(matches!("2026-11-20T08:00:00Z".parse(), Ok(Since::Time(_))));
        assert!("yesterday".parse::<Since>().is_err());
    }
}

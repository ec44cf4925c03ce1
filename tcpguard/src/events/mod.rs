//! The event log: events are kept in memory for queries, broadcast to subscribers, and written to the store, which
//! survives restarts. Each kind is rate limited, so a flood of packets cannot cause a flood of events.

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

/// Events kept in memory.
pub const MOST_KEPT: usize = 10_000;
/// The greatest event id: 2^53 − 1, the largest integer that every JSON reader represents exactly.
pub const GREATEST_ID: u64 = (1 << 53) - 1;
/// Events a subscriber may fall behind before it misses some.
const MOST_BEHIND: usize = 1024;

/// The kind of an event.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema, DocumentedVariants,
)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// The host or a service came under attack.
    AttackStarted,
    /// The attack ended.
    AttackEnded,
    /// The state of the host or of a service changed.
    StateChanged,
    /// The attack was classified as a different kind.
    KindChanged,
    /// A source was blocked.
    SourceBlocked,
    /// A prefix was blocked.
    PrefixBlocked,
    /// An operator lifted a block.
    BlockLifted,
    /// A SYN of a source was dropped for the first time.
    FirstDrop,
    /// A list changed: an entry was added, removed or expired, or a deny file was loaded.
    ListChanged,
    /// A list entry could not be applied, or a deny file could not be read completely.
    ListProblem,
    /// A kernel setting was changed, or could not be changed.
    KernelSettingChanged,
    /// A kernel setting was restored to its original value.
    KernelSettingRestored,
    /// An application accepts connections too slowly.
    SlowApplication,
    /// A listener's backlog is too small; the message says how to raise it.
    BacklogAdvice,
    /// The datapath started to challenge a port by itself because of its SYN rate.
    ChallengeTriggered,
    /// A port is not challenged, or no longer challenged, although it should be.
    ChallengeEnded,
    /// No cookies can be sent; first SYNs are dropped instead.
    ChallengeDegraded,
    /// The configuration was reloaded.
    ConfigReloaded,
    /// The clock was set, or the host was suspended.
    ClockJumped,
    /// A notification about an attack could not be delivered.
    NotifyFailed,
    /// Events of one kind were omitted because there were too many.
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

    /// Returns the name used in the API, the store and the documentation.
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

/// An event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Increases with every event, also across restarts.
    pub id: u64,
    /// When the event occurred.
    pub time: Timestamp,
    /// The kind of event.
    pub kind: EventKind,
    /// What happened, in one sentence.
    pub message: String,
    /// What the event is about: an address, a network, a kernel setting, a port.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub subject: Option<String>,
    /// The kind of attack.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub attack: Option<String>,
    /// The measured values behind the event, one sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub evidence: Vec<String>,
    /// True if the action was only reported and not taken, because `syn_attack_protect` does not allow it.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub watch_only: bool,
}

/// An event that has not been recorded yet.
#[derive(Clone, Debug)]
pub struct Note(Event);

impl Note {
    /// Creates an event of the present time, without subject, attack kind or evidence.
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

    /// Sets the subject: an address, a network, a kernel setting, a port.
    #[must_use]
    pub fn about(mut self, subject: impl ToString) -> Self {
        self.0.subject = Some(subject.to_string());
        self
    }

    /// Sets the kind of attack.
    #[must_use]
    pub fn attack(mut self, kind: Option<&str>) -> Self {
        self.0.attack = kind.map(str::to_owned);
        self
    }

    /// Sets the evidence.
    #[must_use]
    pub fn evidence(mut self, evidence: Vec<String>) -> Self {
        self.0.evidence = evidence;
        self
    }

    /// Marks the event as only reported: the action was not taken.
    #[must_use]
    pub const fn watch_only(mut self, watch_only: bool) -> Self {
        self.0.watch_only = watch_only;
        self
    }
}

/// The event log. Clones share it.
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
    /// Creates an empty log without a store.
    pub fn in_memory() -> Self {
        Self::new(Store::default(), Vec::new())
    }

    /// Creates a log that continues with the `past` events, oldest first, and writes new ones to `store`.
    pub fn new(store: Store, past: Vec<Event>) -> Self {
        let last_id = past.last().map_or(0, |event| event.id);
        let events = past.into_iter().map(Arc::new).collect();
        let state = Mutex::new(Recorded { events, last_id, limit: RateLimit::default() });
        Self(Arc::new(Shared { state, followers: broadcast::channel(MOST_BEHIND).0, store }))
    }

    /// Records `note`, unless its kind exceeds the rate limit.
    pub fn record(&self, note: Note) {
        let mut state = self.lock();
        if state.limit.admits(note.0.kind, note.0.time) {
            self.keep(&mut state, note);
        }
    }

    /// Records an event for each kind of which events were omitted, at most every ten seconds per kind.
    pub fn tick(&self) {
        let mut state = self.lock();
        for (kind, left_out) in state.limit.take_left_out(Timestamp::now()) {
            let message = format!("{left_out} more events of kind {} were omitted", kind.name());
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
        // An error means that there are no subscribers.
        self.0.followers.send(event).ok();
    }

    /// Returns the first `limit` events after `since`, or the last `limit` events if `since` is `None`. Oldest first.
    pub fn list(&self, since: Option<Since>, limit: usize) -> Vec<Arc<Event>> {
        let state = self.lock();
        let Some(since) = since else {
            let skipped = state.events.len().saturating_sub(limit);
            return state.events.iter().skip(skipped).cloned().collect();
        };
        state.events.iter().filter(|event| since.is_before(event)).take(limit).cloned().collect()
    }

    /// Subscribes to the events recorded from now on.
    pub fn follow(&self) -> broadcast::Receiver<Arc<Event>> {
        self.0.followers.subscribe()
    }

    /// Waits until the store has written every recorded event.
    pub fn flush(&self) {
        self.0.store.flush();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Recorded> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The point after which events are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// After the event with this id.
    Id(u64),
    /// After this point in time.
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

//! The event log: events are kept in memory for queries, broadcast to subscribers, and written to the store, which
//! survives restarts. Each kind is rate limited, so a flood of packets cannot cause a flood of events.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;
use tokio::sync::broadcast;
use tracing::info;

use super::{Event, EventKind, Note, limit::RateLimit};
use crate::store::{Record, Store};

/// Events kept in memory.
pub const MAX_KEPT: usize = 10_000;
/// The greatest event id: 2^53 − 1, the largest integer that every JSON reader represents exactly.
pub const MAX_ID: u64 = (1 << 53) - 1;
/// Events a subscriber may fall behind before it misses some.
const MAX_BEHIND: usize = 1024;

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
        Self(Arc::new(Shared { state, followers: broadcast::channel(MAX_BEHIND).0, store }))
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
        if state.events.len() == MAX_KEPT {
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
        let id = text.parse().ok().filter(|id| *id <= MAX_ID).map(Self::Id);
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
        for n in 0..MAX_KEPT + 500 {
            log.keep(&mut log.lock(), note(n));
        }
        let all = log.list(None, usize::MAX);
        assert_eq!((all.len(), all[0].id, all[MAX_KEPT - 1].id), (MAX_KEPT, 501, MAX_KEPT as u64 + 500));
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

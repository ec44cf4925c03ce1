//! Rate limits for events, by kind.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::EventKind;

/// Events of one kind that may come in a burst.
const BURST: f64 = 50.0;
/// Events of one kind per second once the burst is used up.
const PER_SECOND: f64 = 5.0;

/// Minimum interval between two reports of omitted events of the same kind, in seconds.
const SECONDS_BETWEEN: i64 = 10;

/// A token bucket for each kind of event.
#[derive(Default)]
pub(super) struct RateLimit(BTreeMap<EventKind, Bucket>);

struct Bucket {
    tokens: f64,
    filled: Timestamp,
    left_out: u64,
    /// When omitted events of this kind were last reported.
    told: Option<Timestamp>,
}

impl RateLimit {
    /// Takes a token of this kind. Returns false, and counts the event as omitted, if there is none.
    pub fn admits(&mut self, kind: EventKind, now: Timestamp) -> bool {
        let bucket = self.0.entry(kind).or_insert(Bucket { tokens: BURST, filled: now, left_out: 0, told: None });
        let elapsed = now.duration_since(bucket.filled).as_secs_f64().max(0.0);
        bucket.tokens = (bucket.tokens + elapsed * PER_SECOND).min(BURST);
        bucket.filled = now;
        let admits = bucket.tokens >= 1.0;
        if admits {
            bucket.tokens -= 1.0;
        } else {
            bucket.left_out += 1;
        }
        admits
    }

    /// Returns and resets the number of omitted events of each kind that is due: a kind is reported at most every ten
    /// seconds.
    pub fn take_left_out(&mut self, now: Timestamp) -> Vec<(EventKind, u64)> {
        let mut due = Vec::new();
        for (kind, bucket) in &mut self.0 {
            let is_time = bucket.told.is_none_or(|told| now.duration_since(told).as_secs() >= SECONDS_BETWEEN);
            if bucket.left_out > 0 && is_time {
                bucket.told = Some(now);
                due.push((*kind, std::mem::take(&mut bucket.left_out)));
            }
        }
        due
    }
}

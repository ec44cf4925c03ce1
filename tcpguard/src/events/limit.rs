//! How many events of a kind there may be.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::EventKind;

/// Events of one kind that may come at once.
const BURST: f64 = 50.0;
/// Events of one kind a second, after that.
const PER_SECOND: f64 = 5.0;

/// A token bucket for each kind.
#[derive(Default)]
pub(super) struct RateLimit(BTreeMap<EventKind, Bucket>);

struct Bucket {
    tokens: f64,
    filled: Timestamp,
    left_out: u64,
}

impl RateLimit {
    /// Whether another one of this kind may be recorded.
    pub fn admits(&mut self, kind: EventKind, now: Timestamp) -> bool {
        let bucket = self.0.entry(kind).or_insert(Bucket { tokens: BURST, filled: now, left_out: 0 });
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

    /// How many of which kinds were left out, for kinds that none was left out of for a second.
    pub fn take_left_out(&mut self, now: Timestamp) -> Vec<(EventKind, u64)> {
        let due = self.0.iter_mut().filter(|(_, bucket)| {
            bucket.left_out > 0 && (bucket.tokens < 1.0 || now.duration_since(bucket.filled).as_secs() >= 1)
        });
        due.map(|(kind, bucket)| (*kind, std::mem::take(&mut bucket.left_out))).collect()
    }
}

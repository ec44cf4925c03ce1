//! What is done once in an interval, whatever the time between two ticks.

use std::time::{Duration, Instant};

/// Something that is done at most once in each interval.
#[derive(Debug)]
pub struct Every {
    interval: Duration,
    last: Option<Instant>,
}

impl Every {
    /// Creates one that is due at once.
    pub const fn new(interval: Duration) -> Self {
        Self { interval, last: None }
    }

    /// Returns whether it is due, and notes that it is done.
    pub fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.last.is_none_or(|last| now.saturating_duration_since(last) >= self.interval);
        if is_due {
            self.last = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_once_in_an_interval_is_due_at_its_end() {
        let (mut every, start) = (Every::new(Duration::from_millis(450)), Instant::now());
        let due = (0..20u32).filter(|tick| every.is_due(start + Duration::from_millis(100) * *tick));
        assert_eq!(due.collect::<Vec<_>>(), [0, 5, 10, 15]);
    }
}

//! The hourly limit on notifications: an attack that comes and goes does not cause a flood of notifications.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

const HOUR: Duration = Duration::from_secs(3600);

/// Counts the notifications of the last hour.
pub(super) struct Limit {
    most: usize,
    /// When the notifications of the last hour were sent.
    sent: VecDeque<Instant>,
    left_out: u64,
    /// Whether a notification was sent for the start of the attack in progress.
    has_told_start: bool,
}

impl Limit {
    pub fn new(most: u32) -> Self {
        Self { most: most as usize, sent: VecDeque::new(), left_out: 0, has_told_start: false }
    }

    /// Sets the maximum number of notifications per hour.
    pub const fn set_most(&mut self, most: u32) {
        self.most = most as usize;
    }

    /// Returns whether to send the notification of a start or an end: `Some` with the number omitted before it, or
    /// `None`. The end of an attack whose start was notified is always admitted.
    pub fn admit(&mut self, is_start: bool, now: Instant) -> Option<u64> {
        while self.sent.front().is_some_and(|sent| now.duration_since(*sent) >= HOUR) {
            self.sent.pop_front();
        }
        let has_told_start = std::mem::replace(&mut self.has_told_start, false);
        if !(self.sent.len() < self.most || !is_start && has_told_start) {
            self.left_out += 1;
            return None;
        }
        self.has_told_start = is_start;
        self.sent.push_back(now);
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_an_hour_and_no_start_without_its_end() {
        let mut limit = Limit::new(3);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(limit.admit(true, at(0)), Some(0));
        assert_eq!(limit.admit(false, at(1)), Some(0));
        assert_eq!(limit.admit(true, at(2)), Some(0));
        // One more than allowed, because its start was notified.
        assert_eq!(limit.admit(false, at(3)), Some(0));
        assert_eq!(limit.admit(true, at(4)), None);
        assert_eq!(limit.admit(false, at(5)), None);
        // The first two are an hour old.
        assert_eq!(limit.admit(true, at(3601)), Some(2));
    }
}

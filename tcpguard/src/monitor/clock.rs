//! From the datapath's jiffies to the time of day.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// How many whole ticks a duration has.
pub fn in_ticks(duration: Duration, ticks_per_second: u32) -> u64 {
    (duration.as_secs_f64() * f64::from(ticks_per_second)) as u64
}

/// A moment, as jiffies and as the time of day.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    jiffies: u64,
    now: Timestamp,
    ticks_per_second: u32,
}

impl WallClock {
    /// It is now `jiffies`, of which there are `ticks_per_second`.
    pub fn new(jiffies: u64, ticks_per_second: u32) -> Self {
        Self { jiffies, now: Timestamp::now(), ticks_per_second: ticks_per_second.max(1) }
    }

    /// Now.
    pub const fn now(&self) -> Timestamp {
        self.now
    }

    /// Now, in jiffies.
    pub const fn jiffies(&self) -> u64 {
        self.jiffies
    }

    /// The jiffies of when `duration` will have passed.
    pub fn after(&self, duration: Duration) -> u64 {
        self.jiffies + in_ticks(duration, self.ticks_per_second)
    }

    /// When it was, or will be, `jiffies`; to the tick.
    pub fn time_of(&self, jiffies: u64) -> Timestamp {
        let ticks = i128::from(jiffies) - i128::from(self.jiffies);
        let milliseconds = ticks * 1000 / i128::from(self.ticks_per_second);
        let offset = SignedDuration::from_millis(i64::try_from(milliseconds).unwrap_or(0));
        self.now.saturating_add(offset).unwrap_or(self.now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jiffies_become_times() {
        let clock = WallClock::new(1_000_000, 250);
        assert_eq!(clock.now().duration_since(clock.time_of(999_750)), SignedDuration::from_secs(1));
        assert_eq!(clock.time_of(1_000_125).duration_since(clock.now()), SignedDuration::from_millis(500));
    }
}

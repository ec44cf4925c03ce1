//! Conversion of datapath time (jiffies) to wall-clock time.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// Returns the number of whole jiffies in `duration`.
pub fn in_ticks(duration: Duration, ticks_per_second: u32) -> u64 {
    (duration.as_secs_f64() * f64::from(ticks_per_second)) as u64
}

/// A point in time, in jiffies and as wall-clock time.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    jiffies: u64,
    now: Timestamp,
    ticks_per_second: u32,
}

impl WallClock {
    /// Creates a clock for the current time, which is `jiffies` in datapath time.
    pub fn new(jiffies: u64, ticks_per_second: u32) -> Self {
        Self { jiffies, now: Timestamp::now(), ticks_per_second: ticks_per_second.max(1) }
    }

    /// Returns the wall-clock time.
    pub const fn now(&self) -> Timestamp {
        self.now
    }

    /// Returns the datapath time in jiffies.
    pub const fn jiffies(&self) -> u64 {
        self.jiffies
    }

    /// Returns the datapath time in jiffies once `duration` has passed.
    pub fn after(&self, duration: Duration) -> u64 {
        self.jiffies + in_ticks(duration, self.ticks_per_second)
    }

    /// Returns the wall-clock time of `jiffies`, which may be past or future, with a resolution of one jiffy.
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

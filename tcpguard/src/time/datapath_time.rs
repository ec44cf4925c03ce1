//! The approximate datapath time, for the parts of the daemon that do not tick.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::in_ticks;

/// The approximate datapath time: that of the daemon's last tick.
#[derive(Debug)]
pub struct DatapathTime {
    jiffies: AtomicU64,
    ticks_per_second: u32,
}

impl DatapathTime {
    /// Creates a clock that starts at `jiffies`.
    pub const fn new(jiffies: u64, ticks_per_second: u32) -> Self {
        Self { jiffies: AtomicU64::new(jiffies), ticks_per_second }
    }

    /// Sets the time to `jiffies`.
    pub fn set(&self, jiffies: u64) {
        self.jiffies.store(jiffies, Ordering::Relaxed);
    }

    /// Returns the time in jiffies.
    pub fn now(&self) -> u64 {
        self.jiffies.load(Ordering::Relaxed)
    }

    /// Returns the time in jiffies once `duration` has passed.
    pub fn after(&self, duration: Duration) -> u64 {
        self.now() + in_ticks(duration, self.ticks_per_second)
    }
}

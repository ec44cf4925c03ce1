//! Datapath time.

use aya_ebpf::helpers::bpf_jiffies64;
use tcpguard_common::clock::Clock;

use crate::settings;

/// One reading of the clock, and the periods it lies in.
#[derive(Clone, Copy)]
pub struct Now {
    pub jiffies: u64,
    clock: Clock,
}

impl Now {
    #[inline(always)]
    pub fn read() -> Self {
        Self::at(jiffies())
    }

    #[inline(always)]
    pub fn at(jiffies: u64) -> Self {
        Self { jiffies, clock: settings::clock() }
    }

    /// See [`Clock::second`].
    #[inline(always)]
    pub fn second(self) -> u32 {
        self.clock.second(self.jiffies)
    }

    /// See [`Clock::slot`].
    #[inline(always)]
    pub fn slot(self) -> u32 {
        self.clock.slot(self.jiffies)
    }

    /// See [`Clock::epoch`].
    #[inline(always)]
    pub fn epoch(self) -> u32 {
        self.clock.epoch(self.jiffies)
    }

    /// See [`Clock::window_period`].
    #[inline(always)]
    pub fn window_period(self) -> u32 {
        self.clock.window_period(self.jiffies)
    }

    /// Returns whether `since`, in jiffies, lies in another period than now.
    #[inline(always)]
    pub fn is_new_period(self, since: u64) -> bool {
        self.clock.window_period(since) != self.window_period()
    }
}

#[inline(always)]
pub fn jiffies() -> u64 {
    // SAFETY: the helper takes no arguments and returns a number.
    unsafe { bpf_jiffies64() }
}

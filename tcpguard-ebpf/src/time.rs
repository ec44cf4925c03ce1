//! The datapath's clock.

use aya_ebpf::helpers::bpf_jiffies64;
use tcpguard_common::clock::Clock;

use crate::{control, settings};

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

    #[inline(always)]
    pub fn second(self) -> u32 {
        self.clock.second(self.jiffies)
    }

    #[inline(always)]
    pub fn moment(self) -> u32 {
        self.clock.moment(self.jiffies)
    }

    /// The kernel's clock of TCP timestamps.
    #[inline(always)]
    pub fn milliseconds(self) -> u32 {
        let milliseconds = (self.jiffies * 1000).checked_div(settings::ticks_per_second()).unwrap_or(0);
        milliseconds.wrapping_add(control::timestamp_offset()) as u32
    }

    #[inline(always)]
    pub fn epoch(self) -> u32 {
        self.clock.epoch(self.jiffies)
    }

    #[inline(always)]
    pub fn window_period(self) -> u32 {
        self.clock.window_period(self.jiffies)
    }
}

#[inline(always)]
pub fn jiffies() -> u64 {
    // SAFETY: the helper takes nothing and returns a number.
    unsafe { bpf_jiffies64() }
}

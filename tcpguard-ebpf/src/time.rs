//! The datapath's clock.

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
        Self { jiffies: jiffies(), clock: settings::clock() }
    }

    #[inline(always)]
    pub fn second(self) -> u32 {
        self.clock.second(self.jiffies)
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

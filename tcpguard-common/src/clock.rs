//! Time as the datapath sees it: jiffies, which cost one nanosecond to read where every other clock
//! costs fifteen or more. How long a jiffy is depends on the kernel (CONFIG_HZ); periods are
//! therefore powers of two of jiffies, chosen once by the daemon.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// How many bits of a jiffies count make which period.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Clock {
    /// `1 << second_shift` jiffies are about a second: between 0.85 s and 1.28 s for the values of
    /// CONFIG_HZ that exist (100, 250, 300, 1000).
    second_shift: u32,
}

/// For how many seconds the kernel takes a cookie at most (`TCP_SYNCOOKIE_VALID` in include/net/tcp.h).
pub const COOKIE_SECONDS: u32 = 120;

/// Periods that a half-open window is divided into; together about 65 s, the lifetime of a request
/// that the kernel answers six times (`tcp_synack_retries` = 5: 1 + 2 + 4 + 8 + 16 + 32 s).
pub const WINDOW_PERIODS: u32 = 8;

impl Clock {
    /// For a kernel with `ticks_per_second` jiffies a second (at least 4).
    pub const fn new(ticks_per_second: u32) -> Self {
        let below = ticks_per_second.ilog2();
        // Round to the nearer power of two, by the geometric mean.
        let nearer_above = (ticks_per_second as u64 * ticks_per_second as u64) > (1 << (2 * below + 1));
        Self { second_shift: below + nearer_above as u32 }
    }

    /// The number of the period of about a second that `jiffies` lies in.
    #[inline(always)]
    pub const fn second(self, jiffies: u64) -> u32 {
        (jiffies >> (self.second_shift & 63)) as u32
    }

    /// The number of the period of about a quarter of a second; sketch and admission age by these.
    #[inline(always)]
    pub const fn epoch(self, jiffies: u64) -> u32 {
        (jiffies >> (self.second_shift.wrapping_sub(2) & 63)) as u32
    }

    /// The number of the period of about an eighth of a second, in which the load of ports is counted.
    #[inline(always)]
    pub const fn moment(self, jiffies: u64) -> u32 {
        (jiffies >> (self.second_shift.wrapping_sub(3) & 63)) as u32
    }

    /// The number of the period of about eight seconds; half-open windows are made of these.
    #[inline(always)]
    pub const fn window_period(self, jiffies: u64) -> u32 {
        (jiffies >> (self.second_shift.wrapping_add(3) & 63)) as u32
    }

    /// How many jiffies a period of [`Clock::second`] has.
    pub const fn second_in_jiffies(self) -> u64 {
        1 << (self.second_shift & 63)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_the_nearest_power_of_two() {
        for (ticks, expected) in [(100, 128), (250, 256), (300, 256), (1000, 1024), (1024, 1024), (64, 64)] {
            assert_eq!(Clock::new(ticks).second_in_jiffies(), expected, "CONFIG_HZ={ticks}");
        }
    }

    #[test]
    fn periods_nest() {
        let clock = Clock::new(250);
        let now = 0x1_2345_6789;
        assert_eq!(clock.epoch(now) >> 2, clock.second(now));
        assert_eq!(clock.second(now) >> 3, clock.window_period(now));
        assert_eq!(clock.epoch(now + 64), clock.epoch(now) + 1);
    }
}

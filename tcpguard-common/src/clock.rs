//! Time in the datapath: jiffies, which take about one nanosecond to read, whereas every other clock takes
//! fifteen or more. The length of a jiffy depends on the kernel (`CONFIG_HZ`); periods are therefore powers of
//! two of jiffies, chosen once by the daemon.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The lengths of all periods, as powers of two of jiffies.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Clock {
    /// `1 << second_shift` jiffies are about a second: between 0.85 s and 1.28 s for the existing values of
    /// `CONFIG_HZ` (100, 250, 300, 1000).
    second_shift: u32,
}

/// The maximum number of seconds for which the kernel accepts a cookie (`TCP_SYNCOOKIE_VALID` in
/// include/net/tcp.h).
pub const COOKIE_SECONDS: u32 = 120;

/// Periods in a half-open window; together about 65 s, the lifetime of a request that the kernel answers six
/// times (`tcp_synack_retries` = 5: 1 + 2 + 4 + 8 + 16 + 32 s).
pub const WINDOW_PERIODS: u32 = 8;

impl Clock {
    /// Creates the clock for a kernel with `ticks_per_second` jiffies per second (at least 4).
    pub const fn new(ticks_per_second: u32) -> Self {
        let below = ticks_per_second.ilog2();
        // Round to the nearer power of two, by the geometric mean.
        let nearer_above = (ticks_per_second as u64 * ticks_per_second as u64) > (1 << (2 * below + 1));
        Self { second_shift: below + nearer_above as u32 }
    }

    /// Returns the number of the second (about 1 s) that `jiffies` lies in.
    #[inline(always)]
    pub const fn second(self, jiffies: u64) -> u32 {
        (jiffies >> (self.second_shift & 63)) as u32
    }

    /// Returns the number of the epoch (about 1/4 s) that `jiffies` lies in, by which sketch and admission age.
    #[inline(always)]
    pub const fn epoch(self, jiffies: u64) -> u32 {
        (jiffies >> (self.second_shift.wrapping_sub(2) & 63)) as u32
    }

    /// Returns the number of the slot (about 1/8 s) that `jiffies` lies in, by which the load of ports is
    /// counted.
    #[inline(always)]
    pub const fn slot(self, jiffies: u64) -> u32 {
        (jiffies >> (self.second_shift.wrapping_sub(3) & 63)) as u32
    }

    /// Returns the number of the period (about 8 s) that `jiffies` lies in, the unit of half-open windows.
    #[inline(always)]
    pub const fn window_period(self, jiffies: u64) -> u32 {
        (jiffies >> (self.second_shift.wrapping_add(3) & 63)) as u32
    }

    /// Returns the length of a second ([`Clock::second`]) in jiffies.
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

    #[test]
    fn a_slot_is_an_eighth_of_a_second() {
        let clock = Clock::new(250);
        let second = clock.second_in_jiffies();
        assert_eq!(clock.slot(5 * second + second / 8 * 3), 43);
        assert_eq!(clock.slot(5 * second + second / 8 * 3 - 1), 42);
    }
}

//! Times related to cookies: how long a cookie is valid, the offset of the kernel's timestamp clock, and the number of
//! SYNs per slot that the datapath's ceiling corresponds to.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tcpguard_common::challenge::port_load::PORTION;

use crate::datapath::{Datapath, DatapathError};

/// A cookie is created in a period of one minute and accepted until the end of the next one (`TCP_SYNCOOKIE_PERIOD`,
/// `MAX_SYNCOOKIE_AGE`).
const COOKIE_PERIOD_SECONDS: u64 = 60;
const COOKIE_PERIODS: u64 = 2;

/// Returns the number of SYNs within one slot of the datapath that triggers a challenge; 0 for no limit.
pub fn max_port_load(syn_per_second: u32, datapath: &Datapath) -> u64 {
    /// Slots per period of about a second.
    const SLOTS: f64 = 8.0;
    if syn_per_second == 0 {
        return 0;
    }
    let seconds = datapath.clock.second_in_jiffies() as f64 / SLOTS / f64::from(datapath.ticks_per_second);
    ((f64::from(syn_per_second) * seconds) as u64).max(PORTION.into())
}

/// Returns when a cookie sent at `jiffies` expires, in jiffies.
pub fn cookie_expiry(jiffies: u64, ticks_per_second: u32) -> u64 {
    let period = COOKIE_PERIOD_SECONDS * u64::from(ticks_per_second);
    (jiffies / period + COOKIE_PERIODS) * period
}

/// Returns the difference between the kernel's clock of TCP timestamps, which is the monotonic one, and the datapath's
/// time in milliseconds. The monotonic clock is read first and one jiffy is subtracted, so that a timestamp is never
/// ahead of those that the kernel sends later.
pub fn timestamp_offset(datapath: &Datapath) -> Result<u64, DatapathError> {
    let failed = |error: nix::Error| DatapathError::Host { what: "the kernel's monotonic clock", source: error.into() };
    let monotonic = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(failed)?);
    let ticks = u64::from(datapath.ticks_per_second);
    let milliseconds = datapath.jiffies()? * 1000 / ticks;
    Ok((monotonic.as_millis() as u64).wrapping_sub(milliseconds).wrapping_sub(1000u64.div_ceil(ticks)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_good_until_the_end_of_the_next_minute() {
        assert_eq!(cookie_expiry(0, 250), 120 * 250);
        assert_eq!(cookie_expiry(59 * 250, 250), 120 * 250);
        assert_eq!(cookie_expiry(60 * 250, 250), 180 * 250);
    }
}

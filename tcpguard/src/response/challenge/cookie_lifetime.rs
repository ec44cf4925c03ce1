//! How long cookies are under way: the kernel must accept them until the last one expires.

use std::time::Duration;

use super::timing::cookie_expiry;
use crate::{
    datapath::Datapath,
    monitor::Snapshot,
    response::{COOKIES_SETTING, KernelSettings, TIMESTAMPS_SETTING},
};

/// The value of [`COOKIES_SETTING`] with which the kernel accepts all cookies.
pub(super) const COOKIES_ALWAYS: u64 = 2;
/// The value of [`TIMESTAMPS_SETTING`] without a random offset.
const TIMESTAMPS_PLAIN: u64 = 2;
/// How long the last cookies sent by the kernel itself may take to be returned, in seconds.
const KERNELS_COOKIES_RETURN: u64 = 3;

/// When the last cookie expires.
pub(super) struct CookieLifetime {
    /// In jiffies; 0 if none was sent.
    until: u64,
    /// The counter of challenges at the last tick; it may have been started by the previous daemon.
    last_challenged: Option<u64>,
    ticks_per_second: u64,
}

impl CookieLifetime {
    /// Creates the lifetime of cookies of which the previous daemon sent the last one, which expires at `until`.
    pub fn new(until: u64, datapath: &Datapath) -> Self {
        Self { until, last_challenged: None, ticks_per_second: datapath.ticks_per_second.into() }
    }

    /// Returns when the last cookie expires, in jiffies.
    pub const fn until(&self) -> u64 {
        self.until
    }

    /// Extends the lifetime if the datapath sent cookies since the last tick.
    pub fn note(&mut self, snapshot: &Snapshot, datapath: &Datapath) {
        let challenged = snapshot.totals.challenged();
        let before = self.last_challenged.replace(challenged);
        if before.is_some_and(|before| before != challenged) {
            self.extend(snapshot, datapath);
        }
    }

    /// Extends the lifetime by that of a cookie that is sent now.
    pub fn extend(&mut self, snapshot: &Snapshot, datapath: &Datapath) {
        self.until = cookie_expiry(snapshot.clock.jiffies(), datapath.ticks_per_second);
    }

    /// Returns how long the last cookie is still valid; `None` if it has expired.
    pub fn left(&self, snapshot: &Snapshot) -> Option<Duration> {
        let left = self.until.saturating_sub(snapshot.clock.jiffies());
        (left > 0).then(|| Duration::from_secs_f64(left as f64 / self.ticks_per_second as f64))
    }

    /// Returns the kernel settings needed for cookies that will be sent or are still valid.
    pub fn wanted_settings(&self, settings: Option<&KernelSettings>, jiffies: u64) -> Vec<(&'static str, u64)> {
        // Cookies already sent are returned even if no more are to be sent.
        let Some(settings) = settings else { return Vec::new() };
        let mut wanted = Vec::new();
        if jiffies < self.until {
            wanted.push((COOKIES_SETTING, COOKIES_ALWAYS));
        }
        // Until then the kernel sends cookies of its own, which also take some time to be returned.
        if jiffies >= self.until + KERNELS_COOKIES_RETURN * self.ticks_per_second {
            return wanted;
        }
        // If the operator disabled timestamps they stay disabled: SYN-ACKs then carry only the MSS option.
        if settings.number(TIMESTAMPS_SETTING).is_ok_and(|timestamps| timestamps != 0) {
            wanted.push((TIMESTAMPS_SETTING, TIMESTAMPS_PLAIN));
        }
        wanted
    }
}

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
/// The value with which it sends cookies where a queue is full, and accepts those of listeners that sent some.
pub(super) const COOKIES_FOR_FULL_QUEUES: u64 = 1;
/// The value of [`TIMESTAMPS_SETTING`] with an offset that depends on the client.
const TIMESTAMPS_WITH_OFFSET: u64 = 1;
/// The value of [`TIMESTAMPS_SETTING`] without a random offset.
const TIMESTAMPS_PLAIN: u64 = 2;
/// How long the last cookies sent by the kernel itself may take to be returned, in seconds.
const KERNELS_COOKIES_RETURN: u64 = 3;

/// How long the kernel's own cookies may be under way when the datapath begins to send cookies, in milliseconds: a round
/// trip, and the delay until their senders are answered by the datapath.
const DRAIN: u64 = 1300;
/// How long this takes at most, if the kernel continues to send cookies for other queues that fill, in milliseconds.
const LONGEST_DRAIN: u64 = 5000;
/// For how long the kernel's timestamps wait at most to be restored while it sends cookies of its own, in seconds.
const MAX_KERNELS_COOKIES: u64 = 60;
/// For how long of this the kernel accepts the datapath's cookies in any case, in milliseconds: each listener is prepared
/// meanwhile, and accepts them for two minutes.
const PREPARED_WITHIN: u64 = 300;
/// For how long a cookie of the kernel's may have been under way when the datapath begins, in milliseconds.
const RECENT: u64 = 1000;

/// When the last cookie expires, and when the first one may carry a timestamp.
///
/// With `tcp_timestamps = 1` the kernel adds an offset to its timestamps that depends on the client's address. It adds the
/// offset to the SYN-ACK with its cookie, and again, by the setting of that time, to what it sends when the cookie has
/// returned. If the setting changes in between, the client discards all that it receives then, because its timestamp is
/// of the past (RFC 7323, section 5). The setting is therefore changed only when no such cookie is under way: if the kernel
/// sent some, because a queue was full, the datapath first answers every SYN to the challenged ports for [`DRAIN`], with
/// cookies without timestamps.
pub(super) struct CookieLifetime {
    /// In jiffies; 0 if none was sent.
    until: u64,
    /// The counter of challenges at the last tick; it may have been started by the previous daemon.
    last_chosen: Option<u64>,
    ticks_per_second: u64,
    /// The counter of the kernel's own cookies at the last tick, and when it increased last, in jiffies.
    kernels: Option<u64>,
    kernels_last: u64,
    /// Cookies began to be sent with this tick.
    has_begun: bool,
    /// When no cookie of the kernel's with an offset is under way any more, in jiffies.
    drained: u64,
    /// When waiting for that began, in jiffies.
    drains_since: u64,
}

impl CookieLifetime {
    /// Creates the lifetime of cookies of which the previous daemon sent the last one, which expires at `until`.
    pub fn new(until: u64, datapath: &Datapath) -> Self {
        Self {
            until,
            last_chosen: None,
            ticks_per_second: datapath.ticks_per_second.into(),
            kernels: None,
            kernels_last: 0,
            // The previous daemon may have ended while cookies of the kernel's were under way.
            has_begun: until > 0,
            drained: 0,
            drains_since: 0,
        }
    }

    /// Returns when the last cookie expires, in jiffies.
    pub const fn until(&self) -> u64 {
        self.until
    }

    /// Extends the lifetime if the datapath sent cookies since the last tick.
    pub fn note(&mut self, snapshot: &Snapshot, datapath: &Datapath) {
        let kernels = snapshot.tcp_ext.syncookies_sent;
        // Those counted before the first look may be under way.
        if self.kernels.replace(kernels).unwrap_or(0) != kernels {
            self.kernels_last = snapshot.clock.jiffies();
        }
        let chosen = snapshot.totals.chosen_for_cookies();
        let before = self.last_chosen.replace(chosen);
        if before.is_some_and(|before| before != chosen) {
            self.extend(snapshot, datapath);
        }
    }

    /// Extends the lifetime by that of a cookie that is sent now.
    pub fn extend(&mut self, snapshot: &Snapshot, datapath: &Datapath) {
        self.has_begun |= self.until <= snapshot.clock.jiffies();
        self.until = cookie_expiry(snapshot.clock.jiffies(), datapath.ticks_per_second);
    }

    /// Returns how long the last cookie is still valid; `None` if it has expired.
    pub fn left(&self, snapshot: &Snapshot) -> Option<Duration> {
        let left = self.until.saturating_sub(snapshot.clock.jiffies());
        (left > 0).then(|| Duration::from_secs_f64(left as f64 / self.ticks_per_second as f64))
    }

    /// Returns `true` while cookies of the kernel's with an offset may be under way: every SYN to a challenged port is to be
    /// answered by the datapath, those of proven sources too.
    pub const fn is_draining(&self, jiffies: u64) -> bool {
        jiffies < self.drained
    }

    /// Returns the kernel settings needed for cookies that will be sent or are still valid.
    pub fn wanted_settings(&mut self, settings: Option<&KernelSettings>, jiffies: u64) -> Vec<(&'static str, u64)> {
        // Cookies already sent are returned even if no more are to be sent.
        let Some(settings) = settings else { return Vec::new() };
        if std::mem::take(&mut self.has_begun)
            && self.kernels_last + self.ticks(RECENT) >= jiffies
            && self.kernels_last > 0
            && settings.number(TIMESTAMPS_SETTING).is_ok_and(|timestamps| timestamps == TIMESTAMPS_WITH_OFFSET)
        {
            (self.drained, self.drains_since) = (jiffies + self.ticks(DRAIN), jiffies);
        }
        let prepared = self.drains_since + self.ticks(PREPARED_WITHIN);
        if self.is_draining(jiffies) && jiffies > prepared {
            // Another queue may have filled meanwhile.
            let quiet = self.kernels_last + self.ticks(RECENT);
            self.drained = self.drained.max(quiet.min(self.drains_since + self.ticks(LONGEST_DRAIN)));
        }
        let mut wanted = Vec::new();
        if jiffies < self.until {
            let is_prepared = self.is_draining(jiffies) && jiffies >= prepared;
            // With the higher value the kernel sends cookies from every port, in the same way.
            wanted.push((COOKIES_SETTING, if is_prepared { COOKIES_FOR_FULL_QUEUES } else { COOKIES_ALWAYS }));
        }
        if self.is_draining(jiffies) {
            return wanted;
        }
        // Until then the kernel sends cookies of its own, which also take some time to be returned; and so do those that it
        // sends because a queue is full.
        let kernels = if self.kernels_last > 0 { self.kernels_last + self.ticks(RECENT) } else { 0 };
        let kernels = kernels.min(self.until + MAX_KERNELS_COOKIES * self.ticks_per_second);
        if jiffies >= kernels.max(self.until + KERNELS_COOKIES_RETURN * self.ticks_per_second) {
            return wanted;
        }
        // If the operator disabled timestamps they stay disabled: SYN-ACKs then carry only the MSS option.
        if settings.number(TIMESTAMPS_SETTING).is_ok_and(|timestamps| timestamps != 0) {
            wanted.push((TIMESTAMPS_SETTING, TIMESTAMPS_PLAIN));
        }
        wanted
    }

    const fn ticks(&self, milliseconds: u64) -> u64 {
        milliseconds * self.ticks_per_second / 1000
    }
}

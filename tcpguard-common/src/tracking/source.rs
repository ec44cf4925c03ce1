//! The state kept for one source.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::tracking::half_open::HalfOpenWindow;

/// The entry of one source in the source table. Times are in jiffies.
///
/// The fields that every SYN changes come first and fill one cache line: the kernel stores a value of the table
/// 64 bytes after the start of its element, and with this size elements are three cache lines long.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SourceEntry {
    /// SYNs received, including retransmits.
    pub syn: u64,
    /// The time of the last SYN or completed handshake.
    pub last_seen: u64,
    /// SYNs are dropped until this time; 0 if the source is not blocked.
    pub blocked_until: u64,
    /// Half-open handshakes.
    pub half_open: HalfOpenWindow,
    /// Token parts left in the source's bucket ([`crate::tracking::bucket`]).
    pub tokens: u32,
    /// Handshakes that the kernel completed.
    pub completed: u64,
    /// Handshakes completed recently.
    pub recent: RecentCompletions,
    /// Destination ports of its SYNs in the current period of half-open windows.
    pub ports: PortSet,
    /// SYN-ACKs that the kernel retransmitted to the source.
    pub retried: u32,
    /// Resets received.
    pub resets: u32,
    /// The source counts as proven until this time.
    pub proven_until: u64,
    /// SYNs dropped.
    pub dropped: u64,
    /// SYNs answered with a cookie.
    pub challenged: u64,
    /// The time at which the entry was created.
    pub first_seen: u64,
}

const _: () = assert!(size_of::<SourceEntry>() == 128);

impl SourceEntry {
    /// Returns whether the source passes unchallenged: it completed a handshake recently and has at most
    /// `max_half_open` half-open handshakes. The limit exists because the address of a proven source may be
    /// forged.
    #[inline(always)]
    pub fn is_proven(&self, jiffies: u64, period: u32, max_half_open: u64) -> bool {
        jiffies < self.proven_until && self.half_open.count(period) <= max_half_open
    }

    /// An entry of a source of which nothing is known yet.
    pub const EMPTY: Self = Self {
        syn: 0,
        last_seen: 0,
        blocked_until: 0,
        half_open: HalfOpenWindow::EMPTY,
        tokens: 0,
        completed: 0,
        recent: RecentCompletions::NONE,
        ports: PortSet::EMPTY,
        retried: 0,
        resets: 0,
        proven_until: 0,
        dropped: 0,
        challenged: 0,
        first_seen: 0,
    };

    /// Starts the entry of a source that is first seen now, with `tokens` in its bucket.
    #[inline(always)]
    pub const fn begin(&mut self, jiffies: u64, tokens: u32) {
        (self.last_seen, self.first_seen, self.tokens) = (jiffies, jiffies, tokens);
    }
}

/// Handshakes completed in the current and the previous period of half-open windows: the number of the period
/// (32 bits) and the two counts (16 bits each, saturating).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct RecentCompletions(u64);

impl RecentCompletions {
    const NONE: Self = Self(0);

    /// Counts one completed handshake. CPUs that do so concurrently may lose a count.
    #[inline(always)]
    pub const fn add(&mut self, period: u32) {
        let (this, last) = self.counts(period);
        let this = if this < 0xffff { this + 1 } else { this };
        self.0 = (period as u64) << 32 | this << 16 | last;
    }

    /// Returns the number of handshakes completed in `period` and the period before it.
    pub const fn count(self, period: u32) -> u64 {
        let (this, last) = self.counts(period);
        this + last
    }

    #[inline(always)]
    const fn counts(self, period: u32) -> (u64, u64) {
        let (this, last) = (self.0 >> 16 & 0xffff, self.0 & 0xffff);
        match period.wrapping_sub((self.0 >> 32) as u32) {
            0 => (this, last),
            1 => (0, this),
            _ => (0, 0),
        }
    }
}

/// The destination ports of one period, as a set of 64 bits that several ports share: enough to tell one port
/// from many.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PortSet(u64);

impl PortSet {
    const EMPTY: Self = Self(0);

    /// Adds a port. If a new period begins, the set is cleared first.
    #[inline(always)]
    pub const fn add(&mut self, port: u16, is_new_period: bool) {
        let kept = if is_new_period { 0 } else { self.0 };
        let bit = (port as u32).wrapping_mul(0x9e37_79b9) >> 26;
        self.0 = kept | 1 << bit;
    }

    /// Returns the approximate number of ports, up to about 310: 64 · ln(64 / clear) (linear counting).
    pub fn estimate(self) -> u32 {
        /// 64 · ln(64 / clear) with no clear bit, counted as half a clear bit.
        const MAX: f64 = 64.0 * 4.85;
        let clear = self.0.count_zeros();
        if clear == 0 {
            return MAX as u32;
        }
        (64.0 * crate::tracking::distinct::natural_logarithm(64.0 / f64::from(clear)) + 0.5) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_completions_are_those_of_two_periods() {
        let mut recent = RecentCompletions::default();
        (0..3).for_each(|_| recent.add(7));
        assert_eq!(recent.count(7), 3);
        recent.add(8);
        assert_eq!(recent.count(8), 4);
        assert_eq!(recent.count(9), 1);
        assert_eq!(recent.count(10), 0);
        (0..100_000).for_each(|_| recent.add(20));
        assert_eq!(recent.count(20), 0xffff);
    }

    #[test]
    fn few_ports_are_told_from_many() {
        let estimate = |ports: core::ops::Range<u16>| {
            let mut set = PortSet::default();
            ports.for_each(|port| set.add(port, false));
            set.estimate()
        };
        assert_eq!(estimate(80..81), 1);
        assert!((2..=3).contains(&estimate(80..83)));
        assert!((35..=110).contains(&estimate(1..51)), "{}", estimate(1..51));
        assert!(estimate(1..1001) > 200);
    }

    #[test]
    fn a_new_period_forgets_ports() {
        let mut set = PortSet::default();
        (1..100).for_each(|port| set.add(port, false));
        set.add(80, true);
        assert_eq!(set.estimate(), 1);
    }
}

//! The counters.

use tcpguard_common::abi::{
    counters::{COUNTERS, Counted, Counter, CpuCounts, DropReason},
    names::map,
};

use super::{super::DatapathError, PerCpu};

/// Reads the counters.
pub struct CounterMap(PerCpu<CpuCounts>);

/// The counters, summed over all CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals([u64; COUNTERS]);

impl Default for Totals {
    fn default() -> Self {
        Self([0; COUNTERS])
    }
}

impl CounterMap {
    pub(super) const fn new(map: PerCpu<CpuCounts>) -> Self {
        Self(map)
    }

    /// Returns the current values of the counters.
    ///
    /// # Errors
    /// Returns an error if the map cannot be read.
    pub fn read(&self) -> Result<Totals, DatapathError> {
        let cpus = self.0.get(&0, 0).map_err(DatapathError::map(map::COUNTS))?;
        let mut totals = Totals::default();
        for cpu in cpus.iter() {
            for (total, count) in totals.0.iter_mut().zip(&cpu.counts) {
                *total = total.wrapping_add(*count);
            }
        }
        Ok(totals)
    }
}

impl Totals {
    /// Returns the value of one counter.
    pub const fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    /// Returns the number of all SYNs.
    pub fn syn(&self) -> u64 {
        self.begun() + self.sum_of(Counted::SynNotBegun) + self.dropped_where(DropReason::is_syn)
    }

    /// Returns the number of SYNs that began a handshake to be judged, which excludes retransmitted and dropped SYNs
    /// and SYNs for other hosts.
    pub fn begun(&self) -> u64 {
        self.sum_of(Counted::SynBegun)
    }

    fn sum_of(&self, counted: Counted) -> u64 {
        Counter::ALL.iter().filter(|counter| counter.counted() == counted).map(|counter| self.get(*counter)).sum()
    }

    /// Returns the number of SYNs that were to be answered with a cookie. It grows with each cookie sent.
    pub const fn chosen_for_cookies(&self) -> u64 {
        self.get(Counter::SynChallenged) + self.get(Counter::SynChallengedAgain)
    }

    /// Returns the number of SYNs answered by the datapath.
    pub const fn challenged(&self) -> u64 {
        let chosen = self.chosen_for_cookies() + self.get(Counter::SynPrompted);
        // A signed SYN is found when it is to be answered.
        chosen.saturating_sub(self.get(Counter::ChallengeFailed)).saturating_sub(self.get(Counter::DropSignedSyn))
    }

    /// Returns the number of handshakes that were completed, or reset while half-open.
    pub const fn ended(&self) -> u64 {
        self.get(Counter::Completed) + self.get(Counter::HandshakesReset)
    }

    /// Returns the number of dropped frames, for any reason.
    pub fn dropped(&self) -> u64 {
        self.dropped_where(|_| true)
    }

    /// Returns the number of frames dropped for the reasons that `is_wanted` selects.
    pub fn dropped_where(&self, is_wanted: impl Fn(DropReason) -> bool) -> u64 {
        let reasons = DropReason::ALL.iter().filter(|reason| is_wanted(**reason));
        reasons.map(|reason| self.get(reason.counter())).sum()
    }

    /// Returns the totals with one counter set, for composing totals by hand.
    #[must_use]
    pub const fn with(mut self, counter: Counter, value: u64) -> Self {
        self.0[counter as usize] = value;
        self
    }
}

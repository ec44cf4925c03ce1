//! The counters.

use tcpguard_common::{
    counters::{COUNTERS, Counter, Counts},
    layout::map,
};

use super::{super::DatapathError, PerCpu};

/// Reads the counters.
pub struct CounterMap(PerCpu<Counts>);

/// The counters, over all CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals([u64; COUNTERS]);

impl CounterMap {
    pub(super) const fn new(map: PerCpu<Counts>) -> Self {
        Self(map)
    }

    /// The counters as of now.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn read(&self) -> Result<Totals, DatapathError> {
        let cpus = self.0.get(&0, 0).map_err(DatapathError::map(map::COUNTS))?;
        let mut totals = Totals::default();
        for counts in cpus.iter() {
            for (total, count) in totals.0.iter_mut().zip(counts) {
                *total = total.wrapping_add(*count);
            }
        }
        Ok(totals)
    }
}

impl Totals {
    /// One counter.
    pub const fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    /// All SYNs.
    pub const fn syn(&self) -> u64 {
        self.get(Counter::SynTracked) + self.get(Counter::SynUntracked)
    }

    /// With one counter set, for those that make totals up.
    #[must_use]
    pub const fn with(mut self, counter: Counter, value: u64) -> Self {
        self.0[counter as usize] = value;
        self
    }
}

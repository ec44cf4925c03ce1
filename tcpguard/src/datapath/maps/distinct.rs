//! The estimate of distinct sources.

use tcpguard_common::{
    abi::names::map,
    tracking::distinct::{Registers, estimate},
};

use super::{super::DatapathError, PerCpu};

/// Reads the estimate's registers.
pub struct DistinctMap(PerCpu<Registers>);

impl DistinctMap {
    pub(super) const fn new(map: PerCpu<Registers>) -> Self {
        Self(map)
    }

    /// Estimates how many distinct sources sent SYNs in a period, numbered as by
    /// [`tcpguard_common::clock::Clock::second`].
    ///
    /// # Errors
    /// Returns an error if the map cannot be read.
    pub fn estimate(&self, period: u32) -> Result<f64, DatapathError> {
        let cpus = self.0.get(&0, 0).map_err(DatapathError::map(map::DISTINCT))?;
        Ok(estimate(cpus.iter(), period))
    }
}

//! The estimate of distinct sources.

use tcpguard_common::{
    distinct::{Registers, estimate},
    layout::map,
};

use super::{super::DatapathError, PerCpu};

/// Reads the registers.
pub struct DistinctMap(PerCpu<Registers>);

impl DistinctMap {
    pub(super) const fn new(map: PerCpu<Registers>) -> Self {
        Self(map)
    }

    /// About how many different sources sent SYNs in the period (of [`tcpguard_common::clock::Clock::second`]).
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn estimate(&self, period: u32) -> Result<f64, DatapathError> {
        let cpus = self.0.get(&0, 0).map_err(DatapathError::map(map::DISTINCT))?;
        Ok(estimate(cpus.iter(), period))
    }
}

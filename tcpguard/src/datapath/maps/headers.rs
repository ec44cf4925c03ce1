//! What the headers of SYNs have in common.

use tcpguard_common::abi::{names::map, syn_headers::SynHeaders};

use super::{super::DatapathError, PerCpu};

/// Reads the totals of all CPUs.
pub struct SynHeaderMap(PerCpu<SynHeaders>);

impl SynHeaderMap {
    pub(super) const fn new(map: PerCpu<SynHeaders>) -> Self {
        Self(map)
    }

    /// Returns the totals.
    ///
    /// # Errors
    /// Returns an error if the map cannot be read.
    pub fn read(&self) -> Result<SynHeaders, DatapathError> {
        let cpus = self.0.get(&0, 0).map_err(DatapathError::map(map::SYN_HEADERS))?;
        let mut sum = SynHeaders::NONE;
        for cpu in cpus.iter() {
            for (total, count) in sum.by_time_to_live.iter_mut().zip(cpu.by_time_to_live) {
                *total += count;
            }
            sum.without_options += cpu.without_options;
        }
        Ok(sum)
    }
}

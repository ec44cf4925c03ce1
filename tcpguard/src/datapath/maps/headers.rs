//! What the headers of SYNs have in common, and of those whose handshakes completed.

use tcpguard_common::abi::{names::map, signature::CompletedShapes, syn_headers::SynHeaders};

use super::{super::DatapathError, PerCpu};

/// Reads what each CPU has counted.
pub struct SynHeaderMap {
    headers: PerCpu<SynHeaders>,
    completed: PerCpu<CompletedShapes>,
}

impl SynHeaderMap {
    pub(super) const fn new(headers: PerCpu<SynHeaders>, completed: PerCpu<CompletedShapes>) -> Self {
        Self { headers, completed }
    }

    /// Returns the totals and samples of each CPU.
    ///
    /// # Errors
    /// Returns an error if the map cannot be read.
    pub fn read(&self) -> Result<Vec<SynHeaders>, DatapathError> {
        let cpus = self.headers.get(&0, 0).map_err(DatapathError::map(map::SYN_HEADERS))?;
        Ok(cpus.to_vec())
    }

    /// Returns what the SYNs of completed handshakes looked like, summed over all CPUs.
    ///
    /// # Errors
    /// Returns an error if the map cannot be read.
    pub fn read_completed(&self) -> Result<CompletedShapes, DatapathError> {
        let cpus = self.completed.get(&0, 0).map_err(DatapathError::map(map::COMPLETED_SHAPES))?;
        let sum = |of: fn(&CompletedShapes) -> &[u64; 256]| {
            std::array::from_fn(|class| cpus.iter().map(|cpu| of(cpu)[class]).sum())
        };
        Ok(CompletedShapes { handshakes: sum(|cpu| &cpu.handshakes), sources: sum(|cpu| &cpu.sources) })
    }
}

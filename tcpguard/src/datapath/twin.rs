//! A twin of the datapath: the same programs, loaded a second time, with a copy of the state that verdicts depend on.
//! Running frames on the twin changes neither counters nor entries of the live datapath.

use std::os::fd::AsFd;

use aya::{
    maps::{MapError, lpm_trie::Key},
    programs::TestRunOptions,
};
use tcpguard_common::{
    abi::{lease::Lease, names::map},
    address::Address,
    tracking::source::SourceEntry,
};

use super::{
    Datapath, DatapathError, DatapathOptions, Maps,
    batch::copy_array,
    maps::{LiveMaps, LiveState, Totals},
    options::Purpose,
};

impl LiveState {
    /// Creates a twin with the current state, except for sources, which [`Twin::learn`] copies. This takes about a
    /// second.
    ///
    /// # Errors
    /// Returns an error if the programs cannot be loaded, or the state cannot be copied.
    pub fn twin(&self) -> Result<Twin, DatapathError> {
        let purpose = Purpose::Explaining { hash_key: self.0.hash_key };
        let options = DatapathOptions { log_level: None, pins: None, ..self.0.options.clone() };
        let (datapath, maps) = Datapath::load_for(&options, purpose)?;
        let mut twin = Twin { datapath, maps };
        twin.copy(&self.0)?;
        Ok(twin)
    }
}

/// A datapath that is attached to nothing, for running single frames.
pub struct Twin {
    datapath: Datapath,
    /// The twin's maps.
    pub maps: Maps,
}

/// The result of running one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The verdict, a value of the kernel's `enum xdp_action`.
    pub verdict: u32,
    /// The counters before the run.
    pub before: Totals,
    /// The counters after the run.
    pub after: Totals,
}

impl Twin {
    fn copy(&mut self, from: &LiveMaps) -> Result<(), DatapathError> {
        let to = &self.maps.live.0;
        for ((name, from), (_, to)) in from.arrays.iter().zip(&to.arrays) {
            copy_array(from.fd.as_fd(), to.fd.as_fd(), from.entries, from.value_size)
                .map_err(|source| DatapathError::Batch { map: name, source })?;
        }
        let endpoints = from.endpoints.keys().map(|endpoint| endpoint.map(|at| (at.address, at.port as u16)));
        let endpoints = endpoints.collect::<Result<_, _>>().map_err(DatapathError::map(map::ENDPOINTS))?;
        self.maps.challenges.set_endpoints(endpoints)?;
        for network in from.local_networks.keys() {
            self.maps.local.add_network(&network.map_err(DatapathError::map(map::LOCAL_NETWORKS))?)?;
        }
        self.maps.protected.copy(&from.protected_networks, &from.protected_ports)?;
        self.extend_lease()
    }

    /// Extends the copied lease, if it has not expired, to the lifetime of the twin.
    fn extend_lease(&mut self) -> Result<(), DatapathError> {
        let lease = self.maps.lease.read()?;
        if lease.valid_until < self.datapath.jiffies()? {
            return Ok(());
        }
        self.maps.lease.grant(&Lease { valid_until: u64::MAX, ..lease })
    }

    /// Copies the entry of a source, and the rule that applies to it.
    ///
    /// # Errors
    /// Returns an error if a map cannot be read or written.
    pub fn learn(&mut self, live: &LiveState, source: Address) -> Result<(), DatapathError> {
        match live.0.rules.get(&Key::new(128, source), 0) {
            Ok(rule) => self.maps.rules.set(source, 128, rule)?,
            Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(DatapathError::map(map::RULES)(error)),
        }
        let Some(entry) = live.0.sources.get(source)? else { return Ok(()) };
        // A block that is over adds an entry; the content follows.
        self.datapath.block(source, 1)?;
        self.maps.observed.sources.set(source, entry)
    }

    /// Returns the entry of a source in the twin's source table.
    ///
    /// # Errors
    /// Returns an error if the map cannot be read.
    pub fn entry(&self, source: Address) -> Result<Option<SourceEntry>, DatapathError> {
        self.maps.observed.sources.get(source)
    }

    /// Returns the current datapath time in jiffies.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses to run the program that reads the clock.
    pub fn jiffies(&self) -> Result<u64, DatapathError> {
        self.datapath.jiffies()
    }

    /// Returns the number of jiffies per second.
    pub const fn ticks_per_second(&self) -> u32 {
        self.datapath.ticks_per_second
    }

    /// Runs one frame through the guard.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses to run it, as for frames shorter than 14 bytes.
    pub fn run(&self, frame: &[u8]) -> Result<Run, DatapathError> {
        let before = self.maps.observed.counts.read()?;
        let options = TestRunOptions { data_in: Some(frame), ..TestRunOptions::new() };
        let result = self.datapath.run_packet_program(options)?;
        Ok(Run { verdict: result.return_value, before, after: self.maps.observed.counts.read()? })
    }
}

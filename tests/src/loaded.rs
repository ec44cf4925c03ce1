//! The datapath, loaded and run on single frames without a network (BPF_PROG_TEST_RUN).

use std::sync::Arc;

use anyhow::{Result, ensure};
use aya::programs::TestRunOptions;
use tcpguard::{
    config::{Config, Hook, MemoryLimit},
    datapath::{Datapath, DatapathOptions, Maps, maps::Totals},
};
use tcpguard_common::abi::{counters::Counter, lease::Lease, port::PortChallenge};

use crate::{
    build::check_test,
    machine_lock::{MachineLock, lock_machine},
};

const XDP_PASS: u32 = 2;

/// The datapath and its maps, loaded for one test.
pub struct LoadedDatapath {
    /// The BPF programs.
    pub datapath: Datapath,
    /// The maps of the programs.
    pub maps: Maps,
    _machine: Option<Arc<MachineLock>>,
}

impl LoadedDatapath {
    /// Loads the datapath for XDP. Requires a tokio runtime, which the ring buffer registers with.
    ///
    /// # Errors
    /// Returns an error without root.
    pub fn load() -> Result<Self> {
        Self::load_at(Hook::Xdp)
    }

    /// Loads the datapath for `hook`. Requires a tokio runtime.
    ///
    /// # Errors
    /// Returns an error without root.
    pub fn load_at(hook: Hook) -> Result<Self> {
        check_test()?;
        let machine = lock_machine()?;
        let options = DatapathOptions {
            max_sources: 4096,
            memory: MemoryLimit::Auto,
            prefix_v4: 24,
            prefix_v6: 64,
            hook,
            chains: false,
            pins: None,
            log_level: None,
        };
        let (mut datapath, maps) = Datapath::load(&options)?;
        datapath.take_effect()?;
        Ok(Self { datapath, maps, _machine: machine })
    }

    /// Writes a lease with `flags` that does not expire.
    ///
    /// # Errors
    /// Returns an error if the map cannot be written.
    pub fn grant_lease(&mut self, flags: u64) -> Result<()> {
        let terms = tcpguard::response::source_limits(&Config::default(), self.datapath.ticks_per_second);
        self.maps.lease.grant(&Lease { valid_until: u64::MAX, flags, generation: 1, ..terms })?;
        Ok(())
    }

    /// Runs a frame that must pass, and returns the counters that increased and by how much.
    ///
    /// # Errors
    /// Returns an error if the verdict is not `XDP_PASS`.
    pub fn run(&self, frame: &[u8]) -> Result<Vec<(Counter, u64)>> {
        self.run_to(XDP_PASS, frame)
    }

    /// Runs a frame, and returns the verdict and the frame as it is then.
    ///
    /// # Errors
    /// Returns an error if the program cannot be run.
    pub fn answer(&self, frame: &[u8]) -> Result<(u32, Vec<u8>)> {
        let mut answer = vec![0; 256];
        let options = TestRunOptions { data_in: Some(frame), data_out: Some(&mut answer), ..TestRunOptions::new() };
        let result = self.datapath.run_packet_program(options)?;
        answer.truncate(result.data_size_out as usize);
        Ok((result.return_value, answer))
    }

    /// Runs a frame whose verdict must be `expected`, and returns the counters that increased and by how much.
    ///
    /// # Errors
    /// Returns an error if the verdict differs.
    pub fn run_to(&self, expected: u32, frame: &[u8]) -> Result<Vec<(Counter, u64)>> {
        let before = self.maps.observed.counts.read()?;
        let verdict = self.datapath.test_run(frame)?;
        ensure!(verdict == expected, "the verdict is {verdict} instead of {expected}");
        let after: Totals = self.maps.observed.counts.read()?;
        Ok(Counter::ALL
            .iter()
            .map(|counter| (*counter, after.get(*counter) - before.get(*counter)))
            .filter(|(_, difference)| *difference > 0)
            .collect())
    }
}

/// Returns the terms of a challenged port with these bits of `port_flag` and otherwise the values of a Linux host.
pub fn challenge_terms(flags: u32) -> PortChallenge {
    PortChallenge {
        flags,
        most_mss_ipv4: 1460,
        most_mss_ipv6: 1440,
        window: 64_240,
        window_scale: 7,
        time_to_live: 64,
        hop_limit: 64,
        ..PortChallenge::default()
    }
}

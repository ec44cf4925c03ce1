//! The loaded datapath, run on single frames without a network (BPF_PROG_TEST_RUN).

use anyhow::{Result, ensure};
use tcpguard::{
    config::{Config, Hook},
    datapath::{Datapath, DatapathOptions, Maps, maps::Totals},
};
use tcpguard_common::{challenge::PortChallenge, control::Control, counters::Counter};

const XDP_PASS: u32 = 2;

/// The datapath and its maps, as a test has them to itself.
pub struct Guard {
    /// The programs.
    pub datapath: Datapath,
    /// Their maps.
    pub maps: Maps,
}

impl Guard {
    /// Loads it. This wants a runtime of tokio's, which the ring buffer registers with.
    ///
    /// # Errors
    /// Returns an error without root.
    pub fn load() -> Result<Self> {
        Self::load_at(Hook::Xdp)
    }

    /// The same, as it is attached at this hook.
    ///
    /// # Errors
    /// Returns an error without root.
    pub fn load_at(hook: Hook) -> Result<Self> {
        let options = DatapathOptions {
            max_sources: 4096,
            prefix_v4: 24,
            prefix_v6: 64,
            hook,
            chains: false,
            pins: None,
            log_level: None,
        };
        let (mut datapath, maps) = Datapath::load(&options)?;
        datapath.take_effect()?;
        Ok(Self { datapath, maps })
    }

    /// Gives the daemon's word, with these flags, for as long as the test lasts.
    ///
    /// # Errors
    /// Returns an error if the map cannot be written.
    pub fn give_leave(&mut self, flags: u64) -> Result<()> {
        let terms = tcpguard::enforce::terms(&Config::default(), self.datapath.ticks_per_second);
        self.maps.control.give(&Control { good_until: u64::MAX, flags, generation: 1, ..terms })?;
        Ok(())
    }

    /// Runs a frame that must pass; returns the counters that went up, and by how much.
    ///
    /// # Errors
    /// Returns an error if it does not pass.
    pub fn run(&self, frame: &[u8]) -> Result<Vec<(Counter, u64)>> {
        self.run_to(XDP_PASS, frame)
    }

    /// The same for another verdict.
    ///
    /// # Errors
    /// Returns an error if the verdict is another.
    pub fn run_to(&self, expected: u32, frame: &[u8]) -> Result<Vec<(Counter, u64)>> {
        let before = self.maps.counts.read()?;
        let verdict = self.datapath.test_run(frame)?;
        ensure!(verdict == expected, "the verdict is {verdict}");
        let after: Totals = self.maps.counts.read()?;
        Ok(Counter::ALL
            .iter()
            .map(|counter| (*counter, after.get(*counter) - before.get(*counter)))
            .filter(|(_, difference)| *difference > 0)
            .collect())
    }
}

/// The terms of a port that is challenged so: with these bits of `port_flag`, and otherwise as a Linux host has them.
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

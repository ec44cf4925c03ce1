//! How often the programs ran, and for how long: the kernel's BPF statistics.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use aya::programs::Program;
use tcpguard_common::layout::program;
use tracing::debug;

use super::Datapath;

/// What one program has cost since statistics were switched on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramCost {
    /// Its name.
    pub name: &'static str,
    /// How often it ran.
    pub runs: u64,
    /// How long all runs took together.
    pub run_time: Duration,
}

/// The programs that the kernel runs. One that is tail-called is part of the one that calls it.
const PROGRAMS: [&str; 3] = [program::GUARD, program::HANDSHAKE_COMPLETED, program::SYN_ACK_RETRIED];

impl Datapath {
    /// What each program has cost; `None` where the kernel does not tell. It counts only while it is told to measure
    /// (`kernel.bpf_stats_enabled`, or `BPF_ENABLE_STATS`).
    pub fn program_costs(&self) -> Option<Vec<ProgramCost>> {
        let costs = PROGRAMS.iter().filter_map(|name| Some((*name, self.ebpf.program(name)?)));
        // One that this kernel has no use for is not loaded, and costs nothing.
        let costs = costs.filter_map(|(name, program)| cost_of(name, program).transpose());
        costs.collect::<io::Result<_>>().inspect_err(|error| debug!("what programs cost is not known: {error}")).ok()
    }
}

fn cost_of(name: &'static str, program: &Program) -> io::Result<Option<ProgramCost>> {
    let Ok(fd) = program.fd() else { return Ok(None) };
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd()))?;
    parse(name, &text).map(Some).ok_or_else(|| io::Error::other("no run time in /proc/self/fdinfo"))
}

/// Reads what `bpf_prog_show_fdinfo` (kernel/bpf/syscall.c) writes.
fn parse(name: &'static str, fdinfo: &str) -> Option<ProgramCost> {
    let value = |key: &str| {
        let line = fdinfo.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        line.trim().parse().ok()
    };
    Some(ProgramCost { name, runs: value("run_cnt")?, run_time: Duration::from_nanos(value("run_time_ns")?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_times_are_read_from_fdinfo() {
        let text =
            "pos:\t0\nflags:\t02000002\nprog_type:\t6\nrun_time_ns:\t1234567\nrun_cnt:\t89\nrecursion_misses:\t0\n";
        let expected = ProgramCost { name: "guard", runs: 89, run_time: Duration::from_nanos(1_234_567) };
        assert_eq!(parse("guard", text), Some(expected));
        assert_eq!(parse("guard", "pos:\t0\n"), None);
    }
}

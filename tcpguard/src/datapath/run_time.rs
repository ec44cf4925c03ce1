//! The kernel's BPF statistics: run counts and run times of the programs.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use aya::programs::Program;
use tcpguard_common::abi::names::program;
use tracing::debug;

use super::{Datapath, DatapathError};

/// The cost of one program while statistics were enabled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramCost {
    /// The name of the program.
    pub name: &'static str,
    /// The number of runs.
    pub runs: u64,
    /// The total time of all runs.
    pub run_time: Duration,
}

/// The programs that the kernel runs. The cost of a tail-called program is included in its caller's.
const PROGRAMS: [&str; 4] =
    [program::PACKET, program::HANDSHAKE_COMPLETED, program::SYN_ACK_RETRIED, program::SEGMENT_SENT];

impl Datapath {
    /// Returns the cost of each loaded program, or `None` if the kernel does not report it. The kernel counts only
    /// while statistics are enabled (`kernel.bpf_stats_enabled`, or `BPF_ENABLE_STATS`).
    pub fn program_costs(&self) -> Option<Vec<ProgramCost>> {
        let costs = PROGRAMS.iter().filter_map(|name| Some((*name, self.ebpf.program(name)?)));
        // Programs that this kernel cannot use are not loaded.
        let costs = costs.filter_map(|(name, program)| cost_of(name, program).transpose());
        costs.collect::<io::Result<_>>().inspect_err(|error| debug!("program run times are unavailable: {error}")).ok()
    }
}

/// How much work the verifier had with a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifierCost {
    /// The name of the program.
    pub name: &'static str,
    /// Instructions that the verifier processed on all paths through the program (at most a million).
    pub verified: u32,
    /// Bytes of the program as the verifier rewrote it.
    pub bytes: u32,
}

impl Datapath {
    /// Returns the verifier's work for each loaded program. A kernel before 5.16 does not report it.
    ///
    /// # Errors
    /// Returns an error if the kernel does not describe a program.
    pub fn verifier_costs(&self) -> Result<Vec<VerifierCost>, DatapathError> {
        let all = [
            program::PACKET,
            program::ANSWER_SYN,
            program::PROMPT_RESET,
            program::HANDSHAKE_COMPLETED,
            program::JUDGE_BEHIND,
            program::SYN_ACK_RETRIED,
            program::SEGMENT_SENT,
            program::CLOCK,
            program::BLOCK_SOURCE,
            program::PRIME_LISTENER,
        ];
        let loaded = all.into_iter().filter_map(|name| Some((name, self.ebpf.program(name)?)));
        let loaded = loaded.filter(|(_, program)| program.fd().is_ok());
        let costs = loaded.map(|(name, program)| {
            let info = program.info().map_err(DatapathError::program(name))?;
            let verified = info.verified_instruction_count().unwrap_or(0);
            Ok(VerifierCost { name, verified, bytes: info.size_translated().unwrap_or(0) })
        });
        costs.collect()
    }
}

fn cost_of(name: &'static str, program: &Program) -> io::Result<Option<ProgramCost>> {
    let Ok(fd) = program.fd() else { return Ok(None) };
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd()))?;
    parse(name, &text).map(Some).ok_or_else(|| io::Error::other("no run time in /proc/self/fdinfo"))
}

/// Parses the output of `bpf_prog_show_fdinfo` (kernel/bpf/syscall.c).
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

//! The cost of tcpguard itself: the daemon's CPU time and memory, the delay of its ticks, and the run time of its BPF
//! programs as measured by the kernel; and what the daemon does about it ([`CalmPace`]).

mod calm;
mod parts;

use std::{
    collections::VecDeque,
    fs, io,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        resource::{UsageWho, getrusage},
        time::TimeValLike,
    },
    unistd::{SysconfVar, sysconf},
};
use tracing::debug;

use crate::datapath::{Datapath, ProgramCost};
pub use calm::{CalmPace, Change};
use parts::PartsMeter;
pub use parts::{ON_REQUESTS, ON_ROWS, Parts};

/// How many seconds the longest delay is remembered.
const REMEMBERED: usize = 60;
/// Whether the kernel measures the run time of BPF programs; this setting applies to the whole host.
const PROGRAM_STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// The cost of tcpguard.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cost {
    /// CPU time used by the daemon, in user space and in the kernel.
    pub cpu: Duration,
    /// What the CPU time was spent on.
    pub parts: Parts,
    /// Resident memory of the daemon, in bytes.
    pub resident_bytes: u64,
    /// Snapshots taken since the start.
    pub ticks: u64,
    /// The duration of the last tick, from the snapshot to the last measure.
    pub last_tick: Duration,
    /// The longest delay of a tick within the last minute.
    pub longest_delay: Duration,
    /// The run time of the datapath's programs; `None` if the kernel does not measure it.
    pub programs: Option<Vec<ProgramCost>>,
}

/// Measures the cost.
#[derive(Default)]
pub struct CostMeter {
    cost: Cost,
    parts: PartsMeter,
    last_start: Option<Instant>,
    /// The longest delay within each of the last seconds, the newest last.
    delays: VecDeque<Duration>,
    second_began: Option<Instant>,
}

impl CostMeter {
    /// Records the start of a tick that is late by `delay`.
    pub fn begin_tick(&mut self, now: Instant, delay: Duration) {
        self.last_start = Some(now);
        self.parts.begin();
        if let Some(longest) = self.delays.back_mut() {
            *longest = delay.max(*longest);
        }
        self.cost.longest_delay = self.delays.iter().copied().max().unwrap_or(delay);
    }

    /// Records that everything a tick needs has been read.
    pub fn end_reading(&mut self) {
        self.parts.end_reading();
    }

    /// Records the end of a tick. Values that change slowly are read once a second.
    pub fn end_tick(&mut self, now: Instant, datapath: &Datapath) {
        self.parts.end();
        self.cost.parts = self.parts.parts();
        self.cost.ticks += 1;
        self.cost.last_tick = self.last_start.map_or(Duration::ZERO, |start| now - start);
        if self.second_began.is_some_and(|began| now - began < Duration::from_secs(1)) {
            return;
        }
        self.second_began = Some(now);
        self.delays.push_back(Duration::ZERO);
        if self.delays.len() > REMEMBERED {
            self.delays.pop_front();
        }
        match (cpu_time(), resident_bytes()) {
            (Ok(cpu), Ok(bytes)) => (self.cost.cpu, self.cost.resident_bytes) = (cpu, bytes),
            (Err(error), _) | (_, Err(error)) => debug!("the daemon's own cost cannot be measured: {error}"),
        }
        let programs = datapath.program_costs();
        // Another program may have enabled the measurement, which the setting does not show; what was measured stays.
        self.cost.programs =
            programs.filter(|programs| is_measuring_programs() || programs.iter().any(|one| one.runs > 0));
    }

    /// Returns the CPU time without what requests took, as of the last tick.
    pub const fn cpu_without_requests(&self) -> Duration {
        self.cost.cpu.saturating_sub(self.cost.parts.http)
    }

    /// Returns the cost as of the last tick.
    pub fn cost(&self) -> Cost {
        self.cost.clone()
    }
}

fn cpu_time() -> io::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let microseconds = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(u64::try_from(microseconds).unwrap_or(0)))
}

fn resident_bytes() -> io::Result<u64> {
    let bad = || io::Error::other("/proc/self/statm has an unexpected format");
    let text = fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = text.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).ok_or_else(bad)?;
    let page_size = sysconf(SysconfVar::PAGE_SIZE)?.and_then(|size| u64::try_from(size).ok()).ok_or_else(bad)?;
    Ok(pages * page_size)
}

fn is_measuring_programs() -> bool {
    fs::read_to_string(PROGRAM_STATISTICS).is_ok_and(|text| text.trim() == "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_tick_is_remembered_for_a_minute() {
        let mut meter = CostMeter::default();
        let start = Instant::now();
        meter.delays.push_back(Duration::ZERO);
        let delay = Duration::from_millis(200);
        meter.begin_tick(start, Duration::ZERO);
        assert_eq!(meter.cost().longest_delay, Duration::ZERO);
        meter.begin_tick(start, delay);
        assert_eq!(meter.cost().longest_delay, delay);
        for _ in 0..REMEMBERED {
            meter.delays.push_back(Duration::ZERO);
            meter.delays.pop_front();
        }
        meter.begin_tick(start, Duration::ZERO);
        assert_eq!(meter.cost().longest_delay, Duration::ZERO);
    }

    #[test]
    fn this_process_uses_time_and_memory() {
        assert!(cpu_time().is_ok_and(|time| time > Duration::ZERO));
        assert!(resident_bytes().is_ok_and(|bytes| bytes > 100_000));
    }
}

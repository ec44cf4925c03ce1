//! Programs that a test runs: to their end, or beside itself.

use std::{
    fmt, fs,
    process::{Child, Command, ExitStatus},
};

use anyhow::{Context, Result};

/// A program that has ended. Displayed, it shows the command, the exit status and both outputs, so that the message of a
/// failed assertion needs nothing else.
#[derive(Clone, Debug)]
pub struct Finished {
    command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to its standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to its standard error.
    pub stderr: Vec<u8>,
}

/// A program that runs until this value is dropped, which kills it.
#[derive(Debug)]
pub struct KilledOnDrop(pub Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        if self.0.kill().is_ok() {
            self.0.wait().ok();
        }
    }
}

/// Runs `command` to its end and keeps what it printed.
///
/// # Errors
/// Returns an error if the program cannot be started.
pub fn finish(command: &mut Command) -> Result<Finished> {
    let line = format!("{command:?}");
    let output = command.output().with_context(|| format!("cannot run {line}"))?;
    Ok(Finished { command: line, status: output.status, stdout: output.stdout, stderr: output.stderr })
}

/// Returns the user and system time of a process, in seconds.
///
/// # Errors
/// Returns an error if it cannot be read.
pub fn cpu_seconds(process: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).context("cannot read the CPU time")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).context("no CPU time");
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.unwrap_or(100);
    Ok((ticks(11)? + ticks(12)?) / per_second as f64)
}

/// Returns the resident memory of a process, in KiB.
///
/// # Errors
/// Returns an error if it cannot be read.
pub fn resident_kib(process: u32) -> Result<u64> {
    let status =
        fs::read_to_string(format!("/proc/{process}/status")).context("cannot read a process's memory usage")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS in the process status")?;
    line.trim().trim_end_matches(" kB").parse().context("VmRSS is not a number")
}

/// Returns what the kernel tells of each BPF program of a process that did not run when it should have, because it was running
/// on that CPU already (`recursion_misses` in proc_pid_fdinfo(5)).
///
/// # Errors
/// Returns an error if the process has ended.
pub fn missed_runs(process: u32) -> Result<Vec<String>> {
    const MISSES: &str = "recursion_misses:";
    let files = fs::read_dir(format!("/proc/{process}/fdinfo")).context("cannot list the open files")?;
    // A file may be closed in the meantime.
    let texts = files.filter_map(|file| fs::read_to_string(file.ok()?.path()).ok());
    let missed = |line: &str| line.strip_prefix(MISSES).is_some_and(|number| number.trim() != "0");
    Ok(texts.filter(|text| text.lines().any(missed)).collect())
}

/// Returns all that a program printed, its standard error last.
pub fn said(finished: &Finished) -> String {
    [&finished.stdout, &finished.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

impl fmt::Display for Finished {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "command: {}", self.command)?;
        writeln!(formatter, "ended with: {}", self.status)?;
        for (name, bytes) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            writeln!(formatter, "{name}:\n{}", String::from_utf8_lossy(bytes).trim_end())?;
        }
        Ok(())
    }
}

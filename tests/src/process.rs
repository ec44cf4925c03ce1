//! Programs that a test runs to their end.

use std::{
    fmt,
    process::{Command, ExitStatus},
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

/// Runs `command` to its end and keeps what it printed.
///
/// # Errors
/// Returns an error if the program cannot be started.
pub fn finish(command: &mut Command) -> Result<Finished> {
    let line = format!("{command:?}");
    let output = command.output().with_context(|| format!("cannot run {line}"))?;
    Ok(Finished { command: line, status: output.status, stdout: output.stdout, stderr: output.stderr })
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

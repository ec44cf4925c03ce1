//! Running other programs, one announced step at a time.

use std::{ffi::OsStr, process::Command, time::Instant};

use anyhow::{Context, Result, bail};
use xtask::bpf::toolchain::workspace;

/// `cargo` with these arguments, in the workspace's root.
pub fn cargo<Argument: AsRef<OsStr>>(arguments: impl IntoIterator<Item = Argument>) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(workspace());
    command
}

/// Announces a step, runs it with its output shown, and says how long it took.
///
/// # Errors
/// Where the program cannot be run or fails.
pub fn step(what: &str, command: &mut Command) -> Result<()> {
    println!("==> {what}");
    let start = Instant::now();
    let status = command.status().with_context(|| format!("cannot run {}", command.get_program().display()))?;
    if !status.success() {
        bail!("{what}: {} ended with {status}", command.get_program().display());
    }
    println!("==> {what}: done in {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Whether a program of this name is to be found.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let extra = ["/usr/sbin", "/sbin"].map(Into::into);
    std::env::split_paths(&path).chain(extra).any(|folder: std::path::PathBuf| folder.join(program).is_file())
}

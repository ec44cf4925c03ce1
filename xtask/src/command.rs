//! Running other programs, one announced step at a time.

use std::{
    ffi::OsStr,
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use xtask::bpf::{
    build::inherited_from_outer_cargo,
    toolchain::{target_folder, workspace},
};

/// `cargo` with these arguments, in the workspace's root.
pub fn cargo<Argument: AsRef<OsStr>>(arguments: impl IntoIterator<Item = Argument>) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(workspace());
    for variable in inherited_from_outer_cargo() {
        command.env_remove(variable);
    }
    command
}

/// Announces a step, runs it with its output shown, and says how long it took.
///
/// # Errors
/// Where the program cannot be run or fails.
pub fn step(what: &str, command: &mut Command) -> Result<()> {
    announced(what, || {
        let status = command.status().with_context(|| format!("cannot run {}", command.get_program().display()))?;
        judge(what, command, status)
    })
}

/// Announces a step, does it, and says how long it took.
///
/// # Errors
/// Those of `work`.
pub fn announced(what: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("==> {what}");
    let start = Instant::now();
    work()?;
    println!("==> {what}: done in {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Turns the failure of a command into an error.
///
/// # Errors
/// Returns an error if the command failed.
pub fn judge(what: &str, command: &Command, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("{what}: {} ended with {status}", command.get_program().display());
    }
    Ok(())
}

/// A step that goes on while others do. It is ended when this is dropped.
pub struct Background {
    what: String,
    command: Command,
    process: Child,
    /// The file with what it says.
    said: PathBuf,
}

/// Starts a step whose output is shown when it is finished.
///
/// # Errors
/// Where the program cannot be run.
pub fn background(what: &str, mut command: Command) -> Result<Background> {
    println!("==> {what}: started");
    let folder = target_folder().join("background");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let said = folder.join(what.replace(['/', ' ', ','], "-"));
    let file = File::create(&said).with_context(|| format!("cannot write {}", said.display()))?;
    command.stdin(Stdio::null()).stdout(file.try_clone().context("cannot share a file")?).stderr(file);
    let process = command.spawn().with_context(|| format!("cannot run {}", command.get_program().display()))?;
    Ok(Background { what: what.to_owned(), command, process, said })
}

impl Background {
    /// Waits for its end, and shows what it said.
    ///
    /// # Errors
    /// Where it failed.
    pub fn finish(mut self) -> Result<()> {
        announced(&self.what.clone(), || {
            let status = self.process.wait().context("its end cannot be waited for")?;
            print!("{}", fs::read_to_string(&self.said).context("its output cannot be read")?);
            judge(&self.what, &self.command, status)
        })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // It may have ended already.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Whether a program of this name is to be found.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let extra = ["/usr/sbin", "/sbin"].map(Into::into);
    std::env::split_paths(&path).chain(extra).any(|folder: PathBuf| folder.join(program).is_file())
}

//! `cargo xtask lab`: lab tests by name. It builds whatever is stale and installs only what the selected tests need.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use xtask::bpf::toolchain::target_folder;

use crate::{
    command::{self, announced, judge, step},
    setup,
};

/// Which lab tests to run, and how.
#[derive(Args)]
pub struct Arguments {
    /// Run only tests whose names contain one of these, as in `counting` or `hostile::a_port_scan`
    filters: Vec<String>,
    /// Run the ignored tests as well: they take minutes
    #[arg(long)]
    include_ignored: bool,
    /// Name the tests that the filters select, and run none
    #[arg(long)]
    list: bool,
    /// Arguments for the test binary; `-- --help` lists them
    #[arg(last = true)]
    harness: Vec<String>,
}

/// Builds and runs the tests asked for.
///
/// # Errors
/// Returns an error if something cannot be built or installed, no test is selected, or a test fails.
pub fn run(arguments: &Arguments) -> Result<()> {
    setup::require_root("the lab makes network namespaces and loads BPF programs")?;
    setup::for_building()?;
    let tests = build(&[])?;
    let mut selection: Vec<&str> = arguments.filters.iter().map(String::as_str).collect();
    if arguments.include_ignored {
        selection.push("--include-ignored");
    }
    let names = tests.list(&selection)?;
    ensure!(!names.is_empty(), "no lab test is called that: {}", arguments.filters.join(" "));
    if arguments.list {
        names.iter().for_each(|name| println!("{name}"));
        return Ok(());
    }
    setup::for_lab_tests(modules(&names))?;
    let mut command = tests.command(1);
    command.args(&selection).args(&arguments.harness);
    step(&format!("{} lab tests", names.len()), &mut command)
}

/// Selects every package, whichever of their binaries and tests are built: cargo enables the features that all selected
/// packages need together, so another selection would compile most dependencies again.
pub const ALL_PACKAGES: &[&str] = &["--workspace"];

/// The test binary, and the daemon beside it.
pub struct LabTests(PathBuf);

/// Builds the daemon, the lab tests and these other binaries of the lab.
///
/// # Errors
/// Returns an error if something does not compile.
pub fn build(others: &[&str]) -> Result<LabTests> {
    let mut build =
        cargo(["build", "--message-format=json-render-diagnostics", "--bin", "tcpguard", "--test", "cases"]);
    build.args(ALL_PACKAGES).args(others.iter().flat_map(|binary| ["--bin", binary]));
    let mut messages = String::new();
    announced("building the daemon and the lab", || {
        let output = build.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
        messages = String::from_utf8_lossy(&output.stdout).into_owned();
        judge("building the daemon and the lab", &build, output.status)
    })?;
    // One message for each binary; the test's is of this kind.
    let of_tests = messages.lines().filter(|line| line.contains("\"kind\":[\"test\"]"));
    let executable = of_tests.filter_map(|line| line.split_once("\"executable\":\"")?.1.split('"').next()).next_back();
    match executable {
        Some(path) => Ok(LabTests(PathBuf::from(path))),
        None => bail!("cargo did not build the lab tests under {}", target_folder().display()),
    }
}

/// Returns a command that runs a binary of the lab that [`build`] has built.
pub fn binary(name: &str) -> Command {
    Command::new(target_folder().join("debug").join(name))
}

impl LabTests {
    /// Returns a command that runs tests, `threads` at a time. Errors of the lab's tests say what they saw: a backtrace of the
    /// test harness would bury that.
    pub fn command(&self, threads: u8) -> Command {
        let mut command = Command::new(&self.0);
        command.arg(format!("--test-threads={threads}")).env("RUST_LIB_BACKTRACE", "0");
        command
    }

    /// Returns the names of the tests that the test binary selects by these arguments.
    ///
    /// # Errors
    /// Returns an error if the binary cannot be run.
    pub fn list(&self, selection: &[&str]) -> Result<Vec<String>> {
        let mut list = Command::new(&self.0);
        let output = list.args(["--list", "--format", "terse"]).args(selection).output();
        let output = output.with_context(|| format!("cannot run {}", self.0.display()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
    }
}

fn modules(names: &[String]) -> BTreeSet<&str> {
    names.iter().filter_map(|name| name.split("::").next()).collect()
}

/// `cargo`, for the whole product: without the dashboard a build fails, and says why.
pub fn cargo<Argument: AsRef<OsStr>>(arguments: impl IntoIterator<Item = Argument>) -> Command {
    let mut cargo = command::cargo(arguments);
    cargo.env(xtask::dashboard::VARIABLE, "require").env("RUST_LIB_BACKTRACE", "0");
    cargo
}

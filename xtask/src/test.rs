//! `cargo xtask test`: every check there is, in the order in which they are cheapest to fail.

use std::{ffi::OsStr, fs, process::Command};

use anyhow::{Context, Result};
use clap::Args;
use xtask::bpf;

use crate::{
    command::{self, Background, announced, background, step},
    dist, setup,
};

/// The lab tests that do little but wait.
const PATIENT: &str = "patient";
/// These mostly wait for Prometheus, at a rate that another load does not disturb.
const PROMETHEUS: &str = "prometheus";
/// The lab tests that nothing else on the machine disturbs: no daemon runs in them.
const UNDISTURBED: &[&str] = &["answers", "packet_tables"];
/// With the features that each is compiled with.
const BPF_CRATES: &[(&str, &str)] = &[("tcpguard-ebpf", ""), ("tcpguard-ebpf", "tc"), ("tests/flood-ebpf", "")];

/// What to test.
#[derive(Args)]
pub struct Arguments {
    /// Only this part
    #[arg(value_enum)]
    only: Option<Part>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Formatting
    Format,
    /// Clippy for every crate, warnings as errors
    Lint,
    /// Unit and property tests
    Unit,
    /// Packet tables and lab tests (needs root)
    Lab,
    /// The benchmark in its short form: that it runs, not what things cost (needs root)
    Bench,
    /// Boot other kernels and run the smoke test there
    Kernels,
    /// Every kill point, and many restarts in a row; only where it is asked for (needs root)
    Faults,
    /// The Debian package in a virtual machine with systemd, from installing to purging; only where it is asked for
    Vm,
}

/// Runs the parts asked for.
///
/// # Errors
/// At the first part that fails.
pub fn run(arguments: &Arguments) -> Result<()> {
    setup::for_tests()?;
    setup::for_building()?;
    let wanted = |part| arguments.only.is_none_or(|only| only == part);
    if wanted(Part::Format) {
        check_formatting()?;
    }
    if wanted(Part::Lint) {
        lint()?;
    }
    let has_lab = [Part::Lab, Part::Kernels, Part::Faults].into_iter().any(wanted);
    if has_lab {
        // Built together, so that what both are made of is compiled once.
        step("building the daemon", &mut cargo(["build", "-p", "tcpguard"]))?;
        step("building the lab", &mut cargo(["test", "-p", "tests", "--no-run"]))?;
    }
    // An emulated machine takes one processor; unit tests leave one, and do not mind.
    let kernels = if wanted(Part::Kernels) { Some(background("other kernels", run_bin("kernels"))?) } else { None };
    if wanted(Part::Unit) {
        // Examples in docs there are none, and looking for them takes a while.
        let mut tests = cargo(["test", "--workspace", "--exclude", "tests", "--quiet", "--lib", "--bins", "--tests"]);
        step("unit and property tests", &mut tests)?;
    }
    if let Some(kernels) = kernels {
        kernels.finish()?;
    }
    if wanted(Part::Lab) {
        lab()?;
    }
    if wanted(Part::Bench) {
        step("the benchmark, in short", run_bin("bench").args(["--", "--short"]))?;
    }
    match arguments.only {
        Some(Part::Faults) => faults(),
        Some(Part::Vm) => vm(),
        _ => Ok(()),
    }
}

/// What takes too long for each test run: every kill point, and a hundred reloads and fifty restarts in a row.
fn faults() -> Result<()> {
    for name in ["killpoints", "faults"] {
        let arguments = ["test", "-p", "tests", "--test", name, "--", "--ignored", "--nocapture", "--test-threads=1"];
        step(&format!("{name}, at length"), &mut cargo(arguments))?;
    }
    Ok(())
}

/// Two versions of the package: one to install, one to upgrade to.
fn vm() -> Result<()> {
    setup::for_packages()?;
    let packages = dist::packages(&["0.1.0-1", "0.1.0-2"])?;
    for package in &packages {
        step("lintian", Command::new("lintian").args(["--fail-on", "error", "--allow-root"]).arg(package))?;
    }
    step("building the machine's test", &mut cargo(["build", "-p", "tests", "--bins"]))?;
    step("a virtual machine", run_bin("vm").arg("--").args(packages))
}

/// The lab runs the daemon itself, as users do; and one test at a time, since they load the machine. Those that do
/// little but wait go on beside them.
fn lab() -> Result<()> {
    let patient = background(
        "patient tests, beside the others",
        cargo(["test", "--quiet", "-p", "tests", "--test", PATIENT, "--", "--ignored"]),
    )?;
    // They begin with a flood, and with a handshake that every daemon of the machine sees: these do not mind.
    step("packet tables", &mut lab_tests(UNDISTURBED.iter().map(|name| (*name).to_owned())))?;
    let apart = |name: &str| [PATIENT, PROMETHEUS].contains(&name) || UNDISTURBED.contains(&name);
    step("lab tests", &mut lab_tests(names_of_lab_tests()?.into_iter().filter(|name| !apart(name))))?;
    patient.finish()?;
    let blocks = background(
        "a hundred thousand blocks, beside Prometheus",
        cargo(["test", "--quiet", "-p", "tests", "--test", "lists", "--", "--ignored"]),
    )?;
    step("Prometheus", &mut lab_tests([PROMETHEUS.to_owned()].into_iter()))?;
    blocks.finish()
}

fn lab_tests(names: impl Iterator<Item = String>) -> Command {
    let mut command = cargo(["test", "-p", "tests", "--lib", "--no-fail-fast"]);
    for name in names {
        command.args(["--test", &name]);
    }
    command.args(["--", "--test-threads=1"]);
    command
}

/// The files under `tests/tests`, without their ending.
fn names_of_lab_tests() -> Result<Vec<String>> {
    let folder = bpf::toolchain::workspace().join("tests/tests");
    let files = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut names = Vec::new();
    for file in files {
        let path = file.context("cannot read the folder of tests")?.path();
        names.extend(path.file_stem().and_then(|name| name.to_str()).map(str::to_owned));
    }
    names.sort_unstable();
    Ok(names)
}

/// `cargo`, for the whole of it: without the dashboard a build fails, and says why. Errors of the lab's tests say what
/// they saw; where they arose in thirty frames of the test harness would bury that in a log that is cut.
fn cargo<Argument: AsRef<OsStr>>(arguments: impl IntoIterator<Item = Argument>) -> Command {
    let mut cargo = command::cargo(arguments);
    cargo.env(xtask::dashboard::VARIABLE, "require").env("RUST_LIB_BACKTRACE", "0");
    cargo
}

fn run_bin(name: &str) -> Command {
    cargo(["run", "--quiet", "-p", "tests", "--bin", name])
}

fn check_formatting() -> Result<()> {
    step("formatting", &mut cargo(["fmt", "--all", "--check"]))?;
    for folder in ["tcpguard-ebpf", "tests/flood-ebpf"] {
        let manifest = format!("{folder}/Cargo.toml");
        step(&format!("formatting of {folder}"), &mut cargo(["fmt", "--check", "--manifest-path", &manifest]))?;
    }
    Ok(())
}

fn lint() -> Result<()> {
    announced("types of the dashboard", xtask::dashboard::check)?;
    // They have a compiler and a folder of their own.
    let others = BPF_CRATES.iter().map(|(folder, features)| {
        let path = bpf::toolchain::workspace().join(folder);
        let mut clippy = bpf::build::cargo(&path, "clippy", std::env::consts::ARCH)?;
        let target = bpf::toolchain::target_folder().join("bpf-clippy");
        clippy.arg("--quiet").arg("--target-dir").arg(target).args(["--features", features, "--", "-D", "warnings"]);
        background(&format!("clippy for {folder} {features}"), clippy)
    });
    let others = others.collect::<Result<Vec<_>>>()?;
    step("clippy", &mut cargo(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))?;
    others.into_iter().try_for_each(Background::finish)
}

//! `cargo xtask test`: every check there is, in the order in which they are cheapest to fail.

use anyhow::Result;
use clap::Args;
use xtask::bpf;

use crate::{
    command::{cargo, step},
    setup,
};

const BPF_CRATES: &[&str] = &["tcpguard-ebpf", "tests/flood-ebpf"];

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
    if wanted(Part::Unit) {
        step("unit and property tests", &mut cargo(["test", "--workspace", "--exclude", "tests", "--quiet"]))?;
    }
    if wanted(Part::Lab) {
        // The lab runs the daemon itself, as users do; and one test at a time, since they load the machine.
        // Built together, so that what both are made of is compiled once.
        step("building the daemon and the lab", &mut cargo(["build", "--release", "-p", "tcpguard", "-p", "tests"]))?;
        step(
            "packet tables and lab tests",
            &mut cargo(["test", "--release", "-p", "tests", "--no-fail-fast", "--", "--test-threads=1"]),
        )?;
    }
    if wanted(Part::Bench) {
        step(
            "the benchmark, in short",
            &mut cargo(["run", "--quiet", "--release", "-p", "tests", "--bin", "bench", "--", "--short"]),
        )?;
    }
    if wanted(Part::Kernels) {
        step("other kernels", &mut cargo(["run", "--quiet", "--release", "-p", "tests", "--bin", "kernels"]))?;
    }
    Ok(())
}

fn check_formatting() -> Result<()> {
    step("formatting", &mut cargo(["fmt", "--all", "--check"]))?;
    for folder in BPF_CRATES {
        let manifest = format!("{folder}/Cargo.toml");
        step(&format!("formatting of {folder}"), &mut cargo(["fmt", "--check", "--manifest-path", &manifest]))?;
    }
    Ok(())
}

fn lint() -> Result<()> {
    step("clippy", &mut cargo(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))?;
    for folder in BPF_CRATES {
        let path = bpf::toolchain::workspace().join(folder);
        let mut clippy = bpf::build::cargo(&path, "clippy", std::env::consts::ARCH)?;
        let target = bpf::toolchain::target_folder().join("bpf-clippy");
        clippy.arg("--quiet").arg("--target-dir").arg(target).args(["--", "-D", "warnings"]);
        step(&format!("clippy for {folder}"), &mut clippy)?;
    }
    Ok(())
}

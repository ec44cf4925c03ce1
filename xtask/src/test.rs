//! `cargo xtask test`: every check there is, in the order in which they are cheapest to fail.

use std::process::Command;

use anyhow::Result;
use clap::Args;
use xtask::bpf;

use crate::{
    command::{Background, announced, background, step},
    dist, imports,
    lab::{self, LabTests, cargo},
    setup,
};

/// Lab tests that do little but wait, in this module.
const PATIENT: &str = "patient::";
/// Lab tests that mostly wait for Prometheus, at a rate that another load does not disturb.
const PROMETHEUS: &str = "prometheus::";
/// Takes as long as those, and disturbs them as little.
const BESIDE_PROMETHEUS: &str = "lists::a_hundred_thousand_blocks";
/// Lab tests that nothing else on the machine disturbs: no daemon runs in them.
const UNDISTURBED: [&str; 3] = ["answers::", "instruction_counts::", "packet_tables::"];
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
    /// Formatting, clippy for every crate with warnings as errors, and no import cycles
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
    match arguments.only {
        None => run_all(),
        Some(Part::Lint) => {
            setup::for_building()?;
            setup::for_linting()?;
            lint()
        }
        Some(Part::Unit) => {
            setup::for_building()?;
            unit()
        }
        Some(Part::Lab) => {
            prepare_lab()?;
            lab(&lab::build(&[])?)
        }
        Some(Part::Bench) => {
            setup::for_building()?;
            setup::for_bench()?;
            lab::build(&["bench"])?;
            bench()
        }
        Some(Part::Kernels) => {
            setup::for_building()?;
            setup::for_kernels()?;
            lab::build(&["kernels", "smoke"])?;
            step("other kernels", &mut run_bin("kernels"))
        }
        Some(Part::Faults) => {
            prepare_lab()?;
            faults(&lab::build(&[])?)
        }
        Some(Part::Vm) => {
            setup::for_building()?;
            vm()
        }
    }
}

/// Everything that belongs into each test run, what is cheapest to fail first.
fn run_all() -> Result<()> {
    prepare_lab()?;
    setup::for_bench()?;
    setup::for_kernels()?;
    setup::for_linting()?;
    lint()?;
    let tests = lab::build(&["bench", "kernels", "smoke"])?;
    // An emulated machine takes one processor; unit tests leave one, and do not mind.
    let kernels = background("other kernels", run_bin("kernels"))?;
    unit()?;
    kernels.finish()?;
    lab(&tests)?;
    bench()
}

fn prepare_lab() -> Result<()> {
    setup::for_all_lab_tests()?;
    setup::for_building()
}

fn unit() -> Result<()> {
    // Examples in docs there are none, and looking for them takes a while.
    step(
        "unit and property tests",
        &mut cargo(["test", "--quiet", "--lib", "--bins", "--tests", "--", "--include-ignored"]),
    )
}

fn bench() -> Result<()> {
    step("the benchmark, in short", run_bin("bench").args(["--", "--short"]))
}

/// What takes too long for each test run: every kill point, and a hundred reloads and fifty restarts in a row.
fn faults(tests: &LabTests) -> Result<()> {
    let at_length = ["killpoints::at_every_point", "faults::a_hundred_reloads", "--ignored", "--nocapture"];
    step("kill points and restarts, at length", tests.command(1).args(at_length))
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

/// One test at a time, since they load the machine. Those that do little but wait go on beside them.
fn lab(tests: &LabTests) -> Result<()> {
    let mut waiting = tests.command(3);
    waiting.args([PATIENT, "--ignored"]);
    let waiting = background("tests that wait, beside the others", waiting)?;
    // They begin with a flood, and with a handshake that every daemon of the machine sees: these do not mind.
    step("packet tables", tests.command(1).args(UNDISTURBED))?;
    let mut apart: Vec<&str> = vec![PATIENT, PROMETHEUS];
    apart.extend(UNDISTURBED);
    step("lab tests", tests.command(1).args(apart.iter().flat_map(|name| ["--skip", name])))?;
    waiting.finish()?;
    let mut blocks = tests.command(1);
    blocks.args([BESIDE_PROMETHEUS, "--ignored"]);
    let blocks = background("a hundred thousand blocks, beside Prometheus", blocks)?;
    step("Prometheus", tests.command(1).arg(PROMETHEUS))?;
    blocks.finish()
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
    check_formatting()?;
    announced("import cycles", imports::check)?;
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

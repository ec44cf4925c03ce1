//! `cargo xtask test`: every check there is, in the order in which they are cheapest to fail.

use std::process::Command;

use anyhow::Result;
use clap::Args;
use xtask::{
    bpf,
    side_by_side::{ALONE, SIDE_BY_SIDE},
};

use crate::{
    command::{Background, announced, background, step},
    dist, fuzz, imports,
    lab::{self, ALL_PACKAGES, LabTests, cargo},
    setup,
};

/// Lab tests that take minutes and do little but wait, or at least measure no times.
const PATIENT: &[&str] = &[
    "distance::calm::a_trickle",
    "gateway::where_answers",
    "lists::a_hundred_thousand_blocks",
    "patient::",
    "prometheus::prometheus_sees",
    "reachability::clients_of_a_forwarded_port",
    "web::it_does_as_its_description_says",
];
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
    /// A machine with several processors, and network interfaces with several queues; only where it is asked for (needs
    /// root)
    Processors,
    /// Every kill point, and many restarts in a row; only where it is asked for (needs root)
    Faults,
    /// Every row of clients and floods at a distance, a quarter of an hour; only where it is asked for (needs root)
    Distance,
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
            step("other kernels", &mut lab::binary("kernels"))
        }
        Some(Part::Processors) => {
            setup::for_building()?;
            setup::for_kernels()?;
            lab::build(&["processors"])?;
            step("several processors", &mut lab::binary("processors"))
        }
        Some(Part::Faults) => {
            prepare_lab()?;
            faults(&lab::build(&[])?)
        }
        Some(Part::Distance) => {
            prepare_lab()?;
            distance(&lab::build(&[])?)
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
    check_formatting()?;
    let tests = lab::build(&["bench", "kernels", "smoke"])?;
    // Two emulated machines take what the others leave of both processors, and nothing here measures times.
    let kernels = background("other kernels", lab::binary("kernels"))?;
    lint()?;
    unit()?;
    step("fuzzing the parsers of packets, in short", &mut fuzz::packets(&[]))?;
    bench()?;
    kernels.finish()?;
    lab(&tests)
}

fn prepare_lab() -> Result<()> {
    setup::for_all_lab_tests()?;
    setup::for_building()
}

fn unit() -> Result<()> {
    // Examples in docs there are none, and looking for them takes a while.
    let mut unit = cargo(["test", "--quiet", "--lib", "--bin", "tcpguard", "--bin", "xtask"]);
    step("unit and property tests", unit.args(ALL_PACKAGES).args(["--", "--include-ignored"]))
}

fn bench() -> Result<()> {
    step("the benchmark, in short", lab::binary("bench").arg("--short"))
}

/// What takes too long for each test run: every kill point, and a hundred reloads and fifty restarts in a row.
fn faults(tests: &LabTests) -> Result<()> {
    let at_length = ["killpoints::at_every_point", "faults::a_hundred_reloads", "--ignored", "--nocapture"];
    step("kill points and restarts, at length", tests.command(1).args(at_length))
}

/// Every row at a distance, and those that are usually without one at 80 ms.
fn distance(tests: &LabTests) -> Result<()> {
    let rows = ["distance::at_length", "distance::floods", "--include-ignored", "--nocapture"];
    step("clients and floods at a distance, at length", tests.command(1).args(rows))?;
    let mut others = tests.command(1);
    others.env("TCPGUARD_LAB_ROUND_TRIP", "80").args(["benign::", "hostile::"]);
    step("benign and hostile rows at 80 ms", &mut others)?;
    let ways = ["disabling::", "--include-ignored"];
    step("every way to disable the challenge", tests.command(1).args(ways))
}

/// Two versions of the package: one to install, one to upgrade to.
fn vm() -> Result<()> {
    setup::for_packages()?;
    let packages = dist::packages(&["0.1.0-1", "0.1.0-2"])?;
    for package in &packages {
        step("lintian", Command::new("lintian").args(["--fail-on", "error", "--allow-root"]).arg(package))?;
    }
    lab::build(&["vm", "vm-guest"])?;
    step("a virtual machine", lab::binary("vm").args(packages))
}

/// Tests that load the machine run one at a time. Those that do little but wait run in parallel with all others.
fn lab(tests: &LabTests) -> Result<()> {
    let mut waiting = tests.command(4);
    waiting.args(PATIENT).arg("--ignored");
    let waiting = background("tests that wait, in parallel with the others", waiting)?;
    let skip = |names: &[&'static str]| names.iter().flat_map(|name| ["--skip", name]).collect::<Vec<_>>();
    step("lab tests, side by side", tests.command(4).args(SIDE_BY_SIDE).args(skip(ALONE)))?;
    waiting.finish()?;
    step("lab tests, one at a time", tests.command(1).args(skip(SIDE_BY_SIDE)))?;
    step("their exceptions", tests.command(1).args(ALONE))
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
    // As for a server that needs neither the terminal interface nor the dashboard.
    let without = ["clippy", "-p", "tcpguard", "--no-default-features", "--quiet", "--", "-D", "warnings"];
    step("clippy without optional features", &mut cargo(without))?;
    others.into_iter().try_for_each(Background::finish)
}

//! `cargo xtask`: setting up, building, showing and testing tcpguard.

mod command;
mod demo;
mod dist;
mod docs;
mod fuzz;
mod imports;
mod lab;
mod mutants;
mod setup;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Sets up, builds, shows and tests tcpguard")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find what the build needs, and install what is missing or print how
    Setup,
    /// Build target/release/tcpguard, which contains the BPF programs
    Build,
    /// Build a Debian package and a tarball in target/dist
    Dist(dist::Arguments),
    /// Run the demonstration: a web server, a client, floods and the daemon, in network namespaces (needs root)
    Demo,
    /// Run lab tests by name, after building and installing what they need (needs root)
    Lab(lab::Arguments),
    /// Run all checks, except the two longest: `faults` and `vm` (needs root)
    Test(test::Arguments),
    /// Write generated pages: docs/reference, and manual pages and completions into target/docs
    Docs,
    /// Run the fuzz targets for an hour each, or as long as is asked for (needs root)
    Fuzz(fuzz::Arguments),
    /// Change the code one operator or result at a time and see that a test fails each time; takes hours
    Mutants(mutants::Arguments),
    /// Run floods in phases for ten minutes, with a client beside them (needs root)
    Soak,
    /// Measure what the datapath and the daemon cost (needs root)
    Bench {
        /// Arguments of the benchmark; --help lists them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Setup => setup::for_building(),
        Task::Build => build(),
        Task::Demo => demo::run(),
        Task::Dist(arguments) => dist::run(&arguments),
        Task::Lab(arguments) => lab::run(&arguments),
        Task::Test(arguments) => test::run(&arguments),
        Task::Docs => docs::write(),
        Task::Fuzz(arguments) => fuzz::run(&arguments),
        Task::Mutants(arguments) => mutants::run(&arguments),
        Task::Soak => soak(),
        Task::Bench { arguments } => bench(&arguments),
    }
}

fn build() -> Result<()> {
    setup::for_building()?;
    command::step("building target/release/tcpguard", &mut command::cargo(["build", "--release", "-p", "tcpguard"]))
}

fn soak() -> Result<()> {
    setup::for_bench()?;
    build()?;
    let mut soak = command::cargo(["run", "--quiet", "--release", "-p", "tests", "--bin", "soak"]);
    command::step("soak", &mut soak)
}

fn bench(arguments: &[String]) -> Result<()> {
    setup::for_bench()?;
    build()?;
    let mut bench = command::cargo(["run", "--quiet", "--release", "-p", "tests", "--bin", "bench", "--"]);
    command::step("benchmark", bench.args(arguments))
}

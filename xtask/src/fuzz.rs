//! `cargo xtask fuzz`: fuzz targets, for as long as wanted. `cargo xtask test` runs each for some seconds.

use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::{
    command::step,
    lab::{self, ALL_PACKAGES, cargo},
    setup,
};

/// What to fuzz, and for how long.
#[derive(Args)]
pub struct Arguments {
    /// How long each target runs, in seconds
    #[arg(long, default_value_t = 3600, value_name = "N")]
    seconds: u64,
    /// Run only targets whose names contain one of these, as in `packets` or `journal`
    targets: Vec<String>,
}

/// The variable that sets how long each target runs, in seconds.
const VARIABLE: &str = "TCPGUARD_FUZZ_SECONDS";

/// Runs the targets, those for texts two at a time.
///
/// # Errors
/// Returns an error at the first target that finds something; it prints the input, and how to repeat it.
pub fn run(arguments: &Arguments) -> Result<()> {
    setup::for_all_lab_tests()?;
    setup::for_building()?;
    lab::build(&[])?;
    let names: Vec<String> = match arguments.targets.as_slice() {
        [] => vec!["fuzz_".to_owned()],
        targets => targets.to_vec(),
    };
    let with = |mut command: Command| {
        command.env(VARIABLE, arguments.seconds.to_string()).arg("--").args(&names);
        command.args(["--nocapture", "--test-threads", "2"]);
        command
    };
    let mut texts = cargo(["test", "--release", "--quiet", "--lib"]);
    texts.args(ALL_PACKAGES);
    step("fuzzing configuration, lists, bodies, journal, store and packets to explain", &mut with(texts))?;
    step("fuzzing the parsers of packets", &mut with(packets(&["--release"])))
}

/// Returns the command that compares the parsers of packets (needs root).
pub fn packets(options: &[&str]) -> Command {
    let mut command = cargo(["test", "--quiet", "--test", "fuzz"]);
    command.args(ALL_PACKAGES).args(options);
    command
}

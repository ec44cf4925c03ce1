//! `cargo xtask demo`.

use anyhow::Result;

use crate::{command, setup};

/// Builds everything in release mode and runs the demonstration.
pub fn run() -> Result<()> {
    setup::for_lab()?;
    setup::for_building()?;
    command::step(
        "building tcpguard and the lab",
        &mut command::cargo(["build", "--release", "-p", "tcpguard", "-p", "tests"]),
    )?;
    command::step("demonstration", &mut command::cargo(["run", "--quiet", "--release", "-p", "tests", "--bin", "demo"]))
}

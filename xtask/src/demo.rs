//! `cargo xtask demo`.

use anyhow::Result;

use crate::{
    command::{cargo, step},
    lab::{self, ALL_PACKAGES},
    setup,
};

/// Builds the daemon and the demonstration, and runs it. Nothing of it is optimised but the BPF programs, which always
/// are: that takes minutes, and the daemon has little to compute.
///
/// # Errors
/// Returns an error if something cannot be installed or built, or the demonstration fails.
pub fn run() -> Result<()> {
    setup::for_lab()?;
    setup::for_building()?;
    let mut build = cargo(["build", "--bin", "tcpguard", "--bin", "demo"]);
    step("building tcpguard and the lab", build.args(ALL_PACKAGES))?;
    step("demonstration", &mut lab::binary("demo"))
}

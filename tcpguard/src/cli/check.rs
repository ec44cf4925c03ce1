//! `tcpguard check`.

use std::path::Path;

use anyhow::{Context, Result};
use clap::Args;

use super::{load_config, print, print_json};

#[derive(Args)]
pub(super) struct Arguments {
    /// Print JSON instead of TOML
    #[arg(long)]
    json: bool,
}

/// Prints the effective configuration, or fails with the error in it.
pub(super) fn check(file: Option<&Path>, arguments: &Arguments) -> Result<()> {
    let config = load_config(file)?;
    if arguments.json {
        return print_json(&config);
    }
    print(&toml::to_string(&config).context("cannot write the configuration as TOML")?)
}

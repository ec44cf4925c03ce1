//! `tcpguard check`.

use std::path::Path;

use anyhow::{Context, Result};
use clap::Args;

use super::{load_config, print, print_json};
use crate::datapath::{DatapathOptions, MapMemory};

#[derive(Args)]
pub(super) struct Arguments {
    /// Print JSON instead of TOML
    #[arg(long)]
    json: bool,
}

/// Prints the effective configuration, or fails with the error in it, or because this host cannot run it.
pub(super) fn check(file: Option<&Path>, arguments: &Arguments) -> Result<()> {
    let config = load_config(file)?;
    MapMemory::of_options(&DatapathOptions::of(&config))?;
    if arguments.json {
        return print_json(&config);
    }
    print(&toml::to_string(&config).context("cannot write the configuration as TOML")?)
}

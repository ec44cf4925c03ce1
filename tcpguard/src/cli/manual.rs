//! `tcpguard completions` and `tcpguard manual`, generated from the command-line definition.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Arguments, print};

#[derive(Args)]
pub(super) struct Completions {
    /// Shell to generate the script for
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Args)]
pub(super) struct Manual {
    /// Directory for the manual pages
    folder: PathBuf,
}

pub(super) fn completions(arguments: &Completions) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "tcpguard", &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// Writes one manual page for `tcpguard` and one for each command.
pub(super) fn manual(arguments: &Manual) -> Result<()> {
    let folder = &arguments.folder;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    clap_mangen::generate_to(Arguments::command(), folder)
        .with_context(|| format!("cannot write manual pages into {}", folder.display()))
}

//! `tcpguard completions`, and the manual pages: both made from the commands themselves.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Arguments, print};

#[derive(Args)]
pub(super) struct Completions {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Args)]
pub(super) struct Manual {
    /// Where to
    folder: PathBuf,
}

pub(super) fn completions(arguments: &Completions) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "tcpguard", &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// One page for `tcpguard`, and one for each command.
pub(super) fn manual(arguments: &Manual) -> Result<()> {
    let folder = &arguments.folder;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    clap_mangen::generate_to(Arguments::command(), folder)
        .with_context(|| format!("cannot write manual pages into {}", folder.display()))
}

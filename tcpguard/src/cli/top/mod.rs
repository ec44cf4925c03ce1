//! `tcpguard top`: the dashboard in a terminal. What needs a terminal is left out without the cargo feature `tui`.

#[cfg(feature = "tui")]
mod keys;
#[cfg(feature = "tui")]
mod live;
#[cfg(feature = "tui")]
mod screen;
#[cfg(feature = "tui")]
mod view;

use std::{
    io::{self, IsTerminal},
    path::Path,
};

use anyhow::{Result, bail};
use clap::Args;

use super::{Asking, client, print, sort::Sort};

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    asking: Asking,
    /// Sort order of the sources
    #[arg(long, value_enum, default_value_t = Sort::Syn)]
    sort: Sort,
    /// Show only sources whose address contains this
    #[arg(long, default_value = "")]
    filter: String,
}

/// Shows the dashboard until `q` is pressed; with `--json`, prints one line per second.
pub(super) fn top(config: Option<&Path>, arguments: &Arguments) -> Result<()> {
    let socket = arguments.asking.socket(config)?;
    if arguments.asking.json {
        return client::stream(&socket, "/live", |message| match message.name.as_str() {
            "stats" => print(&format!("{}\n", message.data)),
            _ => Ok(()),
        });
    }
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        bail!(
            "top needs a terminal: `tcpguard status` prints the state once, `tcpguard top --json` prints one line per second"
        );
    }
    #[cfg(feature = "tui")]
    return live::run(socket, view::View::new(arguments.sort, &arguments.filter));
    #[cfg(not(feature = "tui"))]
    bail!(
        "this tcpguard was built without its terminal interface (cargo feature `tui`): `tcpguard status` prints the state \
         once, `tcpguard top --json` one line per second"
    );
}

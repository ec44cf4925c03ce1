//! The commands. Exit code 0 is done, 1 failed, 2 wrong usage or configuration.

mod check;
mod client;
mod detach;
mod doctor;
mod events;
mod explain;
mod half_open;
mod lists;
mod logging;
mod manual;
mod reload;
mod run;
mod sort;
mod sources;
mod status;
mod table;
mod top;
mod why;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use hyper::{Method, StatusCode};
use serde::Serialize;
use thiserror::Error;
use tokio::runtime::Runtime;

use crate::config::{Config, ConfigError};
pub use logging::datapath_log_level;

/// Read where no other file is named, if it exists.
pub const DEFAULT_CONFIG: &str = "/etc/tcpguard/tcpguard.toml";

const FAILED: u8 = 1;
const BAD_USAGE: u8 = 2;

/// `tcpguard --version`: the version, and the build id that bug reports and the lab tell builds apart by.
const LONG_VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (build ", env!("TCPGUARD_BUILD_ID"), ")");

/// Watches TCP handshakes and stops SYN floods before they cost anything
#[derive(Parser)]
#[command(name = "tcpguard", version, long_version = LONG_VERSION, about, max_term_width = 100)]
struct Arguments {
    /// Configuration file; without this, /etc/tcpguard/tcpguard.toml if it exists
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon (needs root)
    Run(run::Arguments),
    /// Check the configuration and print what is in effect
    Check(check::Arguments),
    /// How things stand, in ten lines
    Status(Asking),
    /// The same and more, live, until `q`
    Top(top::Arguments),
    /// Who sends SYNs, and what became of them
    Sources(sources::Arguments),
    /// The handshakes that are half open in the kernel: a modern `netstat -n -p TCP | grep SYN_RECV`
    HalfOpen(half_open::Arguments),
    /// Never let a network in, or not for a while
    Block(lists::Block),
    /// Take a network off the deny list, and lift blocks by judgement within it
    Unblock(lists::Removal),
    /// Always let a network in, whatever else is said of it
    Allow(lists::Addition),
    /// Take a network off the allow list
    Disallow(lists::Removal),
    /// Who is always let in, who never, and who is blocked
    Lists(Asking),
    /// What happened
    Events(events::Arguments),
    /// What stands in the way on this host, and how to put it right; exit code 1 where there is something
    Doctor(Asking),
    /// Have the daemon read its configuration again, and show what is different
    Reload(Asking),
    /// Take everything off that a daemon has left attached, pinned or changed; none may be running
    Detach(detach::Arguments),
    /// Everything that is known of a source, and how to let it in
    Why(why::Arguments),
    /// What would become of a packet, and why
    Explain(explain::Arguments),
    /// Print a script that completes these commands in a shell
    Completions(manual::Completions),
    /// Write the manual pages into a folder
    #[command(hide = true)]
    Manual(manual::Manual),
}

/// Wrong usage that only shows once the arguments are understood.
#[derive(Debug, Error)]
#[error("{0}")]
struct Usage(String);

/// How a command asks the daemon.
#[derive(Args)]
struct Asking {
    /// The daemon's socket; without this, that of the configuration
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The commands, for what describes them.
#[cfg(test)]
pub(crate) fn command() -> clap::Command {
    <Arguments as clap::CommandFactory>::command()
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    match arguments.run() {
        Ok(code) => code,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tcpguard: {error:#}");
            let is_unsound = |refused: &client::Refused| refused.status == StatusCode::UNPROCESSABLE_ENTITY;
            let is_usage = error.is::<ConfigError>()
                || error.is::<Usage>()
                || error.downcast_ref::<client::Refused>().is_some_and(is_unsound);
            ExitCode::from(if is_usage { BAD_USAGE } else { FAILED })
        }
    }
}

fn usage(error: &clap::Error) -> ExitCode {
    if let Err(problem) = error.print() {
        eprintln!("tcpguard: {problem}");
    }
    if error.use_stderr() { ExitCode::from(BAD_USAGE) } else { ExitCode::SUCCESS }
}

/// Who reads our output may have seen enough, as `head` does.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

impl Arguments {
    fn run(self) -> Result<ExitCode> {
        let config = self.config.as_deref();
        match self.command {
            Command::Doctor(asking) => return doctor::doctor(config, &asking),
            Command::Run(arguments) => run::run(config, arguments),
            Command::Check(arguments) => check::check(config, &arguments),
            Command::Status(asking) => status::status(config, &asking),
            Command::Top(arguments) => top::top(config, &arguments),
            Command::Sources(arguments) => sources::sources(config, &arguments),
            Command::HalfOpen(arguments) => half_open::half_open(config, &arguments),
            Command::Block(arguments) => lists::block(config, &arguments),
            Command::Unblock(arguments) => lists::unblock(config, &arguments),
            Command::Allow(arguments) => lists::allow(config, &arguments),
            Command::Disallow(arguments) => lists::disallow(config, &arguments),
            Command::Lists(asking) => lists::show(config, &asking),
            Command::Events(arguments) => events::events(config, &arguments),
            Command::Reload(asking) => reload::reload(config, &asking),
            Command::Detach(arguments) => detach::detach(config, &arguments),
            Command::Why(arguments) => why::why(config, &arguments),
            Command::Explain(arguments) => explain::explain(config, &arguments),
            Command::Completions(arguments) => manual::completions(&arguments),
            Command::Manual(arguments) => manual::manual(&arguments),
        }
        .map(|()| ExitCode::SUCCESS)
    }
}

/// The configuration in `file`, or in the default file if that exists, or the defaults.
fn load_config(file: Option<&Path>) -> Result<Config, ConfigError> {
    let default = Path::new(DEFAULT_CONFIG);
    match file {
        Some(file) => Config::load(file),
        None if default.exists() => Config::load(default),
        None => Ok(Config::default()),
    }
}

impl Asking {
    /// The answer of the daemon to `GET path`.
    fn get<T: serde::de::DeserializeOwned>(&self, config: Option<&Path>, path: &str) -> Result<T> {
        client::request(&self.socket(config)?, Method::GET, path, None)
    }

    /// The answer of the daemon to a request that changes something.
    fn change<T: serde::de::DeserializeOwned>(
        &self,
        config: Option<&Path>,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<T> {
        client::request(&self.socket(config)?, method, path, body)
    }

    fn socket(&self, config: Option<&Path>) -> Result<PathBuf, ConfigError> {
        match &self.socket {
            Some(socket) => Ok(socket.clone()),
            None => load_config(config).map(|config| config.listen.socket),
        }
    }
}

/// What a command waits on, for the daemon or the kernel.
fn runtime() -> Result<Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the asynchronous runtime")
}

/// Prints `value` as JSON.
fn print_json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).context("the answer cannot be written as JSON")?;
    print(&format!("{text}\n"))
}

fn print(text: &str) -> Result<()> {
    io::stdout().lock().write_all(text.as_bytes()).map_err(Into::into)
}

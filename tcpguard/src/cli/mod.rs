//! The commands. Exit code 0: done; 1: failed; 2: wrong usage or configuration.

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
mod privileges;
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

use crate::{
    config::{Config, ConfigError},
    daemon::RunError,
    datapath::DatapathError,
};
pub use logging::datapath_log_level;

/// The configuration file that is read, if it exists, without `--config`.
pub const DEFAULT_CONFIG: &str = "/etc/tcpguard/tcpguard.toml";

const FAILED: u8 = 1;
const BAD_USAGE: u8 = 2;

/// `tcpguard --version`: the version, and the build id that bug reports and the lab tell builds apart by.
const LONG_VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (build ", env!("TCPGUARD_BUILD_ID"), ")");

/// Detects and stops SYN floods
#[derive(Parser)]
#[command(name = "tcpguard", version, long_version = LONG_VERSION, about, max_term_width = 100)]
struct Arguments {
    /// Configuration file (default: /etc/tcpguard/tcpguard.toml, if it exists)
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon (needs root, or three capabilities)
    Run(run::Arguments),
    /// Check the configuration and print the effective one
    Check(check::Arguments),
    /// Show the state in ten lines
    Status(Asking),
    /// Show the state, sources and events live; `q` quits
    Top(top::Arguments),
    /// List sources with their SYNs, handshakes and drops
    Sources(sources::Arguments),
    /// List the kernel's half-open handshakes, like `netstat -n -p TCP | grep SYN_RECV`
    HalfOpen(half_open::Arguments),
    /// Put a network on the deny list: its SYNs are dropped
    Block(lists::Block),
    /// Remove a network from the deny list and lift the blocks within it
    Unblock(lists::Removal),
    /// Put a network on the allow list: its SYNs are never dropped or challenged
    Allow(lists::Addition),
    /// Remove a network from the allow list
    Disallow(lists::Removal),
    /// Show the allow list, the deny list and the current blocks
    Lists(Asking),
    /// Show recent events
    Events(events::Arguments),
    /// Check this host for problems and show how to fix them; exit code 1 if there are any
    Doctor(Asking),
    /// Make the daemon reload its configuration, and show the changes
    Reload(Asking),
    /// Remove attachments, pins and changed kernel settings that a daemon left behind; fails while a daemon runs
    Detach(detach::Arguments),
    /// Show how a source is treated and why, and how to let it in
    Why(why::Arguments),
    /// Show the verdict on a packet, and the reason
    Explain(explain::Arguments),
    /// Print a completion script for a shell
    Completions(manual::Completions),
    /// Write the manual pages into a directory
    #[command(hide = true)]
    Manual(manual::Manual),
}

/// Wrong usage that the argument parser cannot detect.
#[derive(Debug, Error)]
#[error("{0}")]
struct Usage(String);

/// Options of commands that query the daemon.
#[derive(Args)]
struct Asking {
    /// The daemon's socket (default: the one in the configuration)
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Returns the command-line definition, from which documentation is generated.
#[cfg(test)]
pub(crate) fn command() -> clap::Command {
    <Arguments as clap::CommandFactory>::command()
}

/// Runs the command given by the process's arguments and returns its exit code.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    match arguments.run() {
        Ok(code) => code,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tcpguard: {}", sentence(&error));
            let is_unsound = |refused: &client::Refused| refused.status == StatusCode::UNPROCESSABLE_ENTITY;
            let is_usage = error.is::<ConfigError>()
                || error.is::<Usage>()
                || is_misconfigured(&error)
                || error.downcast_ref::<client::Refused>().is_some_and(is_unsound);
            ExitCode::from(if is_usage { BAD_USAGE } else { FAILED })
        }
    }
}

/// Returns whether the datapath cannot be loaded because of the configuration.
fn is_misconfigured(error: &anyhow::Error) -> bool {
    let of_run = error.downcast_ref::<RunError>().and_then(|error| match error {
        RunError::Datapath(error) => Some(error),
        _ => None,
    });
    matches!(of_run.or_else(|| error.downcast_ref()), Some(DatapathError::TooLittleMemory { .. }))
}

/// Returns the error and its sources on one line, each once: many errors already state their source.
fn sentence(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |said, cause| match cause.to_string() {
        cause if said.contains(&cause) => said,
        cause if said.is_empty() => cause,
        cause => format!("{said}: {cause}"),
    })
}

fn usage(error: &clap::Error) -> ExitCode {
    if let Err(problem) = error.print() {
        eprintln!("tcpguard: {problem}");
    }
    if error.use_stderr() { ExitCode::from(BAD_USAGE) } else { ExitCode::SUCCESS }
}

/// Returns whether the reader of standard output closed it early, as `head` does.
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

/// Loads the configuration from `file`, or from the default file if that exists, or returns the defaults.
fn load_config(file: Option<&Path>) -> Result<Config, ConfigError> {
    let default = Path::new(DEFAULT_CONFIG);
    match file {
        Some(file) => Config::load(file),
        None if default.exists() => Config::load(default),
        None => Ok(Config::default()),
    }
}

impl Asking {
    /// Returns the daemon's answer to `GET path`.
    fn get<T: serde::de::DeserializeOwned>(&self, config: Option<&Path>, path: &str) -> Result<T> {
        client::request(&self.socket(config)?, Method::GET, path, None)
    }

    /// Sends a request that changes something, and returns the daemon's answer.
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

/// Starts a single-threaded runtime for requests to the daemon or the kernel.
fn runtime() -> Result<Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the asynchronous runtime")
}

/// Prints `value` as JSON.
fn print_json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).context("cannot write the answer as JSON")?;
    print(&format!("{text}\n"))
}

fn print(text: &str) -> Result<()> {
    io::stdout().lock().write_all(text.as_bytes()).map_err(Into::into)
}

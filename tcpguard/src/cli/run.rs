//! `tcpguard run`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{load_config, logging, privileges};
use crate::{
    daemon::{ConfigSource, RunOptions},
    memory,
};

/// Time for blocking tasks, which cannot be cancelled, to finish.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Few, because most of the work is done in the kernel.
const WORKER_THREADS: usize = 2;

#[derive(Args)]
pub(super) struct Arguments {
    /// Interface to guard instead of those in the configuration; can be repeated
    #[arg(long = "interface", value_name = "NAME")]
    interfaces: Vec<String>,
    /// Path of the Unix socket (default: the one in the configuration)
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Directory for pins (default: the one in the configuration)
    #[arg(long, value_name = "PATH")]
    pins: Option<PathBuf>,
    /// At exit, leave the datapath and the kernel settings for the next daemon, regardless of `on_exit`; after a final
    /// stop, run `tcpguard detach`. For service managers
    #[arg(long)]
    hand_over: bool,
}

pub(super) fn run(file: Option<&Path>, arguments: Arguments) -> Result<()> {
    let hands_over = arguments.hand_over;
    let source = source(file.map(Path::to_owned), arguments);
    let config = source.read()?;
    if !nix::unistd::geteuid().is_root() && !has_capabilities()? {
        bail!(crate::datapath::DatapathError::NotPermitted);
    }
    privileges::keep_from_commands()?;
    logging::start();
    memory::keep_little();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    let result = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        cancel_on_signal(&shutdown)?;
        let reload = Some(hangups()?);
        crate::run(config, RunOptions { source: Some(source), reload, shutdown, hands_over }).await.map_err(Into::into)
    });
    // Do not wait for a hanging webhook request or a long response: the datapath is no longer controlled.
    runtime.shutdown_timeout(LAST_WORDS);
    result
}

/// Returns the source of the configuration: the file, overridden by the command line.
fn source(file: Option<PathBuf>, arguments: Arguments) -> ConfigSource {
    ConfigSource::new(move || {
        let config = load_config(file.as_deref())?;
        config.with_arguments(arguments.interfaces.clone(), arguments.socket.clone(), arguments.pins.clone())
    })
}

/// Returns a channel that receives a message at SIGHUP, which reloads the configuration.
fn hangups() -> Result<mpsc::Receiver<()>> {
    let mut hangup = signal(SignalKind::hangup()).context("cannot wait for SIGHUP")?;
    // One pending request covers all signals that arrive before it is handled.
    let (request, requests) = mpsc::channel(1);
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            info!("SIGHUP: reloading the configuration");
            request.try_send(()).ok();
        }
    });
    Ok(requests)
}

/// Returns whether this process has the capabilities that the daemon needs.
fn has_capabilities() -> Result<bool> {
    const CAP_NET_ADMIN: u32 = 12;
    const CAP_PERFMON: u32 = 38;
    const CAP_BPF: u32 = 39;
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read this process's capabilities")?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    Ok([CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF].iter().all(|bit| effective >> bit & 1 == 1))
}

/// Cancels `shutdown` at SIGTERM or SIGINT, for an orderly exit.
fn cancel_on_signal(shutdown: &CancellationToken) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        info!("{name}: shutting down");
        shutdown.cancel();
    });
    Ok(())
}

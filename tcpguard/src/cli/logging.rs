//! What is logged, and where to.

use std::io::IsTerminal;

use tracing::{Level, enabled, warn};
use tracing_subscriber::EnvFilter;

/// Sets what is logged, as in `TCPGUARD_LOG=debug`.
const VARIABLE: &str = "TCPGUARD_LOG";
const DEFAULT: &str = "info";

/// Logs to standard error; without times where systemd adds them.
pub(super) fn start() {
    let wanted = std::env::var(VARIABLE).unwrap_or_else(|_| DEFAULT.to_owned());
    let filter = EnvFilter::try_new(&wanted);
    let problem = filter.as_ref().err().map(ToString::to_string);
    let filter = filter.unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let to_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    if to_journal {
        subscriber.without_time().init()
    } else {
        subscriber.init()
    }
    if let Some(problem) = problem {
        warn!("{VARIABLE}=\"{wanted}\" is not understood ({problem}); {DEFAULT} is taken instead");
    }
}

/// The level to load the datapath's log with, if it is wanted at all: messages for every new source are
/// for debugging, and the programs have no code for them unless asked.
pub fn datapath_log_level() -> Option<u8> {
    const DEBUG: u8 = 4;
    const TRACE: u8 = 5;
    if enabled!(target: "tcpguard::accounts", Level::TRACE) {
        Some(TRACE)
    } else if enabled!(target: "tcpguard::accounts", Level::DEBUG) {
        Some(DEBUG)
    } else {
        None
    }
}

//! Setup of the log.

use std::io::IsTerminal;

use tracing::{Level, enabled, warn};
use tracing_subscriber::{Layer, filter::Targets, fmt, layer::SubscriberExt, registry, util::SubscriberInitExt};

/// Environment variable with the log filter, such as `TCPGUARD_LOG=debug`.
const VARIABLE: &str = "TCPGUARD_LOG";
const DEFAULT: &str = "info";

/// Starts logging to standard error, without timestamps if the journal adds them.
pub(super) fn start() {
    let wanted = std::env::var(VARIABLE).unwrap_or_else(|_| DEFAULT.to_owned());
    let (filter, problem) = match wanted.parse::<Targets>() {
        Ok(filter) => (filter, None),
        Err(error) => (Targets::new().with_default(Level::INFO), Some(error.to_string())),
    };
    let to_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let layer = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal()).with_target(false);
    if to_journal {
        registry().with(layer.without_time().with_filter(filter)).init();
    } else {
        registry().with(layer.with_filter(filter)).init();
    }
    if let Some(problem) = problem {
        warn!("invalid {VARIABLE}=\"{wanted}\" ({problem}); using {DEFAULT}");
    }
}

/// Returns the log level to load the datapath with, or `None` for no logging. Messages for every new source are for
/// debugging only; without a level the programs contain no code for them.
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

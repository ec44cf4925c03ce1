//! What judgements are made from, tick by tick: written down by binaries with debug assertions, for simulations.

#[cfg(any(test, debug_assertions))]
use serde::{Deserialize, Serialize};

#[cfg(any(test, debug_assertions))]
use crate::monitor::{Readings, SourceReading};

/// One tick.
#[cfg(any(test, debug_assertions))]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Recorded {
    /// What thresholds are compared with.
    pub host: Readings,
    /// Sources that may have to answer for it.
    pub suspects: Vec<SourceReading>,
    /// Different sources of SYNs a second.
    pub distinct_sources: f64,
}

/// Adds this tick to the file that `TCPGUARD_RECORD` names.
#[cfg(debug_assertions)]
pub(crate) fn tick(snapshot: &crate::monitor::Snapshot) {
    use std::{io::Write, sync::LazyLock};

    /// The gravest are enough.
    const MOST_SUSPECTS: usize = 16;
    static FILE: LazyLock<Option<std::ffi::OsString>> = LazyLock::new(|| std::env::var_os("TCPGUARD_RECORD"));
    let Some(file) = &*FILE else { return };
    let recorded = Recorded {
        host: snapshot.pressure.host,
        suspects: snapshot.suspects.iter().take(MOST_SUSPECTS).copied().collect(),
        distinct_sources: snapshot.rates.distinct_sources,
    };
    let file = std::fs::File::options().append(true).create(true).open(file);
    if let (Ok(mut file), Ok(line)) = (file, serde_json::to_string(&recorded)) {
        // Whoever records looks at the file.
        writeln!(file, "{line}").ok();
    }
}

/// Nothing, in a binary for users.
#[cfg(not(debug_assertions))]
pub(crate) const fn tick(_: &crate::monitor::Snapshot) {}

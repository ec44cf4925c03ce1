//! Records the input of judgements, tick by tick, for simulations. Only binaries with debug assertions do this.

#[cfg(any(test, debug_assertions))]
use serde::{Deserialize, Serialize};

#[cfg(any(test, debug_assertions))]
use crate::monitor::{Readings, SourceReading};

/// The recording of one tick.
#[cfg(any(test, debug_assertions))]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Recorded {
    /// The host's values that are compared with the thresholds.
    pub host: Readings,
    /// Candidate offenders among the sources.
    pub suspects: Vec<SourceReading>,
    /// The estimated number of different sources of SYNs per second.
    pub distinct_sources: f64,
}

/// Appends this tick to the file named by `TCPGUARD_RECORD`.
#[cfg(debug_assertions)]
pub(crate) fn tick(snapshot: &crate::monitor::Snapshot) {
    use std::{io::Write, sync::LazyLock};

    /// Only this many sources are recorded.
    const MAX_SUSPECTS: usize = 16;
    static FILE: LazyLock<Option<std::ffi::OsString>> = LazyLock::new(|| std::env::var_os("TCPGUARD_RECORD"));
    let Some(file) = &*FILE else { return };
    let recorded = Recorded {
        host: snapshot.pressure.host,
        suspects: snapshot.suspects.iter().take(MAX_SUSPECTS).copied().collect(),
        distinct_sources: snapshot.rates.distinct_sources,
    };
    let file = std::fs::File::options().append(true).create(true).open(file);
    if let (Ok(mut file), Ok(line)) = (file, serde_json::to_string(&recorded)) {
        // A failed write is not reported: whoever makes a recording checks the file.
        writeln!(file, "{line}").ok();
    }
}

/// Does nothing in a release binary.
#[cfg(not(debug_assertions))]
pub(crate) const fn tick(_: &crate::monitor::Snapshot) {}

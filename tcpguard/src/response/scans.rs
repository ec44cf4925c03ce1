//! Port scans: reported, and no evidence of an attack. A scan needs the answers to its SYNs, so that the source is most
//! likely not forged; but it does no harm.

use std::{collections::BTreeMap, time::Duration};

use tcpguard_common::address::Address;

use crate::{
    events::{EventKind, EventLog, Note},
    monitor::SourceReading,
};

/// A source is reported once in this time.
const QUIET: Duration = Duration::from_secs(600);
/// The number of sources remembered as reported.
const MAX_REPORTED: usize = 1024;

/// Reports scans.
pub(super) struct Scans {
    events: EventLog,
    reported: BTreeMap<Address, Duration>,
}

impl Scans {
    pub fn new(events: EventLog) -> Self {
        Self { events, reported: BTreeMap::new() }
    }

    /// Reports the sources that are scanning.
    pub fn report(&mut self, sources: &[SourceReading], at: Duration) {
        self.reported.retain(|_, reported| at.saturating_sub(*reported) < QUIET);
        for source in sources {
            if self.reported.len() >= MAX_REPORTED || self.reported.contains_key(&source.source) {
                continue;
            }
            self.reported.insert(source.source, at);
            let message = format!("{} sent SYNs to about {} ports within seconds", source.source, source.ports);
            self.events.record(Note::new(EventKind::PortScan, message).about(source.source));
        }
    }
}

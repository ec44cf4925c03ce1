//! Floods of ports without a listener. They are no evidence against anybody, but the kernel answers every SYN with a
//! reset: while such ports are flooded, the datapath lets only retransmits through to them.
//!
//! A port without a listener may be redirected instead, and its handshakes complete elsewhere. The kernel sends no resets
//! then, so that the limit does not begin.

use std::time::Duration;

use tcpguard_common::abi::counters::{Counter, DropReason};

use crate::{
    events::{EventKind, EventLog, Note},
    monitor::Snapshot,
    time::Past,
};

/// The span over which rates are measured.
const SPAN: Duration = Duration::from_millis(950);
/// The limit begins when this many SYNs per second go to ports without a listener,
const BEGIN: f64 = 2000.0;
/// and the kernel answers at least this share of them with a reset.
const RESET_SHARE: f64 = 0.5;
/// The limit ends when fewer SYNs than this per second have arrived for [`QUIET`].
const END: f64 = 1000.0;
const QUIET: Duration = Duration::from_secs(10);

/// Decides whether SYNs to ports without a listener are limited.
pub(super) struct ClosedPorts {
    events: EventLog,
    past: Past<Duration, Sums>,
    /// Since when fewer SYNs than [`END`] arrive; `None` while there is no limit.
    limited: Option<Option<Duration>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    syn: u64,
    resets: u64,
}

impl ClosedPorts {
    pub fn new(events: EventLog) -> Self {
        Self { events, past: Past::new(SPAN), limited: None }
    }

    /// Returns `true` while first SYNs are dropped.
    pub const fn are_limited(&self) -> bool {
        self.limited.is_some()
    }

    /// Begins or ends the limit.
    pub fn apply(&mut self, snapshot: &Snapshot, level: u8, at: Duration) {
        let dropped = snapshot.totals.get(DropReason::ClosedPort.counter());
        let sums =
            Sums { syn: snapshot.totals.get(Counter::SynClosed) + dropped, resets: snapshot.tcp_ext.resets_sent };
        let (syn, resets) = self.rates(sums, at);
        if level < 2 {
            self.limited = None;
        } else if let Some(quiet_since) = &mut self.limited {
            if syn >= END {
                *quiet_since = None;
            } else if at.saturating_sub(*quiet_since.get_or_insert(at)) >= QUIET {
                self.limited = None;
                self.tell("the flood of ports without a listener ended".to_owned());
            }
        } else if syn >= BEGIN && resets >= RESET_SHARE * syn {
            self.limited = Some(None);
            self.tell(format!(
                "{syn:.0} SYNs per second arrive for ports without a listener: only retransmits pass to them, and no \
                 source is blocked for it"
            ));
        }
    }

    fn rates(&mut self, sums: Sums, at: Duration) -> (f64, f64) {
        let rates = self.past.oldest(at).map(|(before, seconds)| {
            let per_second = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
            (per_second(sums.syn, before.syn), per_second(sums.resets, before.resets))
        });
        self.past.add(at, sums);
        rates.unwrap_or_default()
    }

    fn tell(&self, message: String) {
        self.events.record(Note::new(EventKind::ClosedPortsFlooded, message));
    }
}

//! Notices below the thresholds: a port has many half-open handshakes for its backlog, which operators want to know long
//! before it is an attack.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    detect::Phase,
    events::{EventKind, EventLog, Note},
    monitor::{PortSnapshot, Snapshot},
    time::Past,
};

/// More half-open handshakes than this are many whatever the backlog, where few complete: it is the backlog that most
/// applications request (OpenSSH, and `SOMAXCONN` before Linux 5.4).
const MANY: u64 = 128;
/// Few complete if the half-open handshakes are more than this many times those completed in the last second.
const FEW_COMPLETE: u64 = 4;
/// How long the condition must hold: half-open handshakes of a burst of clients are gone by then.
const LASTING: Duration = Duration::from_millis(900);
/// A port is reported once in this time.
const QUIET: Duration = Duration::from_secs(600);
/// The span over which completed handshakes are counted.
const SECOND: Duration = Duration::from_secs(1);

/// Reports ports whose half-open handshakes are many.
pub(super) struct BacklogNotices {
    events: EventLog,
    ports: BTreeMap<u16, Watched>,
}

/// A port with many half-open handshakes, or one that was reported.
struct Watched {
    /// Completed handshakes, the totals of the last second.
    completed: Past<Duration, u64>,
    above_since: Option<Duration>,
    reported: Option<Duration>,
}

impl BacklogNotices {
    pub const fn new(events: EventLog) -> Self {
        Self { events, ports: BTreeMap::new() }
    }

    /// Reports what stands out while the host is calm; during an attack, the evidence says it.
    pub fn report(&mut self, phase: Phase, snapshot: &Snapshot, max_half_open: u32, at: Duration) {
        self.ports.retain(|port, watched| {
            watched.reported.is_some_and(|reported| at.saturating_sub(reported) < QUIET)
                || snapshot.ports.get(*port).is_some_and(is_candidate)
        });
        if phase != Phase::Calm {
            self.ports.values_mut().for_each(|watched| watched.above_since = None);
            return;
        }
        for port in snapshot.ports.busy().filter(|port| is_candidate(port)) {
            let watched = self.ports.entry(port.port).or_default();
            if watched.takes_notice(port, at) {
                let message = notice(port, max_half_open);
                self.events.record(Note::new(EventKind::BacklogFilling, message).about(port.port));
            }
        }
    }
}

impl Default for Watched {
    fn default() -> Self {
        Self { completed: Past::new(SECOND), above_since: None, reported: None }
    }
}

impl Watched {
    /// Returns `true` if the port is to be reported now.
    fn takes_notice(&mut self, port: &PortSnapshot, at: Duration) -> bool {
        let completed = self.completed.growth(at, port.completed, |total| *total);
        self.completed.add(at, port.completed);
        if !port.is_queue_filling() && port.half_open <= FEW_COMPLETE * completed {
            self.above_since = None;
            return false;
        }
        let since = *self.above_since.get_or_insert(at);
        let is_due = at.saturating_sub(since) >= LASTING
            && self.reported.is_none_or(|reported| at.saturating_sub(reported) >= QUIET);
        if is_due {
            self.reported = Some(at);
        }
        is_due
    }
}

fn is_candidate(port: &PortSnapshot) -> bool {
    port.backlog > 0 && (port.is_queue_filling() || port.half_open > MANY)
}

fn notice(port: &PortSnapshot, max_half_open: u32) -> String {
    let PortSnapshot { port, half_open, backlog, .. } = port;
    format!(
        "port {port}: {half_open} handshakes are half open, and its listeners have a backlog of {backlog}; no measures are \
         taken up to thresholds.max_half_open ({max_half_open}); `tcpguard half-open --port {port}` shows whose they are"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ssh(half_open: u64, completed: u64) -> PortSnapshot {
        PortSnapshot { port: 22, half_open, completed, backlog: 4096, ..PortSnapshot::default() }
    }

    /// Returns whether a port of this kind is reported within two seconds.
    fn is_reported(port: impl Fn(u64) -> PortSnapshot) -> bool {
        let mut watched = Watched::default();
        (0..20).any(|tick| {
            let port = port(tick);
            if !is_candidate(&port) {
                watched = Watched::default();
                return false;
            }
            watched.takes_notice(&port, Duration::from_millis(tick * 100))
        })
    }

    #[test]
    fn an_sshd_with_324_half_open_handshakes_is_reported() {
        assert!(is_reported(|_| ssh(324, 7)));
        assert!(!is_reported(|_| ssh(100, 0)), "few, and much room");
        assert!(is_reported(|_| PortSnapshot { backlog: 128, ..ssh(70, 0) }), "more than half of its backlog");
        assert!(!is_reported(|tick| ssh(if tick % 5 == 0 { 0 } else { 324 }, 0)), "they come and go");
    }

    #[test]
    fn handshakes_in_flight_are_not() {
        // 2,000 per second at a round-trip time of 150 ms.
        assert!(!is_reported(|tick| ssh(if tick == 0 { 0 } else { 300 }, tick * 200)));
    }

    #[test]
    fn it_is_reported_once() {
        let mut watched = Watched::default();
        let reports = (0..100).filter(|tick| watched.takes_notice(&ssh(324, 0), Duration::from_millis(tick * 100)));
        assert_eq!(reports.count(), 1);
    }
}

//! Observing handshakes that complete behind this host: in protected networks, and at ports that are redirected.

use tcpguard_common::abi::counters::Counter;
use tracing::{info, warn};

use super::Daemon;
use crate::{datapath::Feature, monitor::Snapshot};

/// Whether such handshakes are observed. It costs a little for each packet that the host sends, so that it begins when there
/// are any.
#[derive(Default)]
pub(super) struct Behind {
    is_observed: bool,
    /// Why they cannot be observed, although there are any.
    problem: Option<String>,
    last: Option<Unexplained>,
}

/// SYNs to ports without a listener, and the resets that the kernel answers them with where nothing else does.
#[derive(Clone, Copy)]
struct Unexplained {
    closed: u64,
    resets: u64,
}

impl Unexplained {
    fn of(snapshot: &Snapshot) -> Self {
        Self { closed: snapshot.totals.get(Counter::SynClosed), resets: snapshot.tcp_ext.resets_sent }
    }

    /// Returns whether more SYNs came than resets were sent: some port is redirected, or a firewall drops them.
    const fn has_grown_since(self, before: Self) -> bool {
        self.closed.saturating_sub(before.closed) > self.resets.saturating_sub(before.resets)
    }
}

impl Behind {
    pub const fn is_observed(&self) -> bool {
        self.is_observed
    }

    /// Returns `None` as long as there was nothing to observe, and why it cannot be observed.
    pub fn status(&self) -> Option<Feature> {
        let problem = self.problem.clone().map(Feature::Unavailable);
        problem.or(self.is_observed.then_some(Feature::Available))
    }

    /// Returns whether there are handshakes to observe, as far as this snapshot tells.
    fn is_wanted(&mut self, snapshot: &Snapshot) -> bool {
        let now = Unexplained::of(snapshot);
        let before = self.last.replace(now);
        !snapshot.redirected.is_empty() || before.is_some_and(|before| now.has_grown_since(before))
    }
}

impl Daemon {
    /// Begins to observe handshakes behind this host if there are any.
    pub(super) fn observe_behind(&mut self, snapshot: Option<&Snapshot>) {
        let is_found = snapshot.is_some_and(|snapshot| self.behind.is_wanted(snapshot));
        let is_wanted = is_found || !self.config.protected.is_empty();
        if !is_wanted || self.behind.is_observed || self.behind.problem.is_some() {
            return;
        }
        match self.datapath.observe_sent() {
            Ok(()) => {
                self.behind.is_observed = true;
                info!("the SYN-ACKs of redirected ports and protected networks are observed");
            }
            Err(error) => {
                warn!("SYNs to redirected ports and protected networks are not judged: {error}");
                self.behind.problem = Some(error.to_string());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{datapath::maps::Totals, kernel::TcpExt};

    fn snapshot(closed: u64, resets_sent: u64) -> Snapshot {
        let tcp_ext = TcpExt { resets_sent, ..TcpExt::default() };
        Snapshot { totals: Totals::default().with(Counter::SynClosed, closed), tcp_ext, ..Snapshot::of_nothing() }
    }

    #[test]
    fn syns_that_are_not_answered_with_a_reset_are_worth_observing() {
        let mut behind = Behind::default();
        assert!(!behind.is_wanted(&snapshot(5, 0)), "those of before");
        assert!(!behind.is_wanted(&snapshot(9, 4)), "a scan");
        assert!(!behind.is_wanted(&snapshot(9, 9)));
        assert!(behind.is_wanted(&snapshot(10, 9)));
        let redirected = Snapshot { redirected: [80].into(), ..snapshot(10, 9) };
        assert!(behind.is_wanted(&redirected));
    }
}

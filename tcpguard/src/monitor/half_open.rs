//! Counting half-open handshakes, in the kernel and in the datapath.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use tcpguard_common::clock::WINDOW_PERIODS;

/// Numbers of half-open handshakes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HalfOpenCounts {
    /// The kernel's count: requests in `SYN_RECV`. It misses handshakes that the kernel answers with cookies.
    pub kernel: u64,
    /// The subset of the kernel's count whose SYN-ACK was retransmitted.
    pub kernel_retried: u64,
    /// The datapath's count: handshakes begun within the handshake lifetime, and neither completed nor reset.
    pub datapath: u64,
}

/// Counts the handshakes begun within the handshake lifetime, by the period in which they began. Ended handshakes are
/// subtracted from the newest period first, because most end soon after they begin.
#[derive(Clone, Debug, Default)]
pub struct HandshakeWindow {
    /// What was counted before the first call is not half open.
    begins_now: bool,
    /// The totals of handshakes begun and ended at the last call.
    last: Option<(u64, u64)>,
    /// Period, and the number of half-open handshakes that began in it.
    slots: VecDeque<(u32, u64)>,
}

impl HandshakeWindow {
    /// Creates a window that takes the totals of its first call as the baseline.
    pub fn from_now() -> Self {
        Self { begins_now: true, ..Self::default() }
    }

    /// Returns the number of half-open handshakes in `period`, given the totals of handshakes begun and ended.
    pub fn count(&mut self, begun: u64, ended: u64, period: u32) -> u64 {
        let before = self.last.unwrap_or(if self.begins_now { (begun, ended) } else { (0, 0) });
        self.begin(period, begun.saturating_sub(before.0));
        self.end(ended.saturating_sub(before.1));
        // Totals that are read one after the other may seem to decrease by a little; the difference is made up by the
        // next reading.
        self.last = Some((begun.max(before.0), ended.max(before.1)));
        self.slots.retain(|slot| period.wrapping_sub(slot.0) < WINDOW_PERIODS);
        self.slots.iter().map(|slot| slot.1).sum()
    }

    /// Discards the half-open handshakes counted so far, because they belong to the previous daemon.
    pub fn forget(&mut self) {
        self.slots.clear();
    }

    /// Restarts the totals at 0; half-open handshakes stay counted.
    pub fn restart(&mut self) {
        self.last = None;
    }

    fn begin(&mut self, period: u32, handshakes: u64) {
        match self.slots.back_mut() {
            Some(slot) if slot.0 == period => slot.1 += handshakes,
            _ => self.slots.push_back((period, handshakes)),
        }
    }

    fn end(&mut self, mut handshakes: u64) {
        for slot in self.slots.iter_mut().rev() {
            let ended = handshakes.min(slot.1);
            slot.1 -= ended;
            handshakes -= ended;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_are_counted_for_their_lifetime() {
        let mut window = HandshakeWindow::default();
        assert_eq!(window.count(0, 0, 10), 0);
        assert_eq!(window.count(1000, 0, 10), 1000);
        assert_eq!(window.count(1500, 20, 12), 1480);
        assert_eq!(window.count(1500, 30, 17), 1470);
        assert_eq!(window.count(1500, 30, 18), 470);
        assert_eq!(window.count(1500, 30, 20), 0);
    }

    #[test]
    fn a_handshake_may_end_in_the_next_period() {
        let mut window = HandshakeWindow::default();
        assert_eq!(window.count(100, 0, 10), 100);
        assert_eq!(window.count(100, 100, 11), 0);
        assert_eq!(window.count(150, 100, 11), 50);
    }

    #[test]
    fn counts_that_seem_to_go_back_are_not_counted_twice() {
        let mut window = HandshakeWindow::default();
        assert_eq!(window.count(100, 0, 10), 100);
        assert_eq!(window.count(90, 0, 10), 100);
        assert_eq!(window.count(110, 0, 10), 110);
    }

    #[test]
    fn more_ends_than_beginnings_are_no_debt() {
        let mut window = HandshakeWindow::default();
        assert_eq!(window.count(5, 50, 10), 0);
        assert_eq!(window.count(8, 50, 10), 3);
    }
}

//! Counting half-open handshakes: the kernel's, and the datapath's.

use std::collections::VecDeque;

use tcpguard_common::{clock::WINDOW_PERIODS, counters::Counter};

use crate::datapath::maps::Totals;

/// Half-open handshakes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HalfOpenCounts {
    /// By the kernel, in state SYN_RECV. It goes blind once it answers with cookies.
    pub kernel: u64,
    /// Of these, the ones whose SYN-ACK was sent again.
    pub kernel_retried: u64,
    /// By the datapath: asked for within a handshake's lifetime, neither completed nor reset.
    pub datapath: u64,
}

/// All handshakes that began within the lifetime of one, by the period they began in. The ends of
/// handshakes are taken off the newest ones: most end soon after they began.
#[derive(Default)]
pub struct HandshakeWindow {
    /// Begun and ended, as counted before.
    last: Option<(u64, u64)>,
    /// Period, and handshakes that are half open.
    slots: VecDeque<(u32, u64)>,
}

impl HandshakeWindow {
    /// How many are half open in `period`.
    pub fn count(&mut self, totals: &Totals, period: u32) -> u64 {
        let now = (begun(totals), ended(totals));
        let before = self.last.replace(now).unwrap_or_default();
        self.begin(period, now.0.saturating_sub(before.0));
        self.end(now.1.saturating_sub(before.1));
        self.slots.retain(|slot| period.wrapping_sub(slot.0) < WINDOW_PERIODS);
        self.slots.iter().map(|slot| slot.1).sum()
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

const fn begun(totals: &Totals) -> u64 {
    totals.syn().saturating_sub(totals.get(Counter::SynRepeated))
}

const fn ended(totals: &Totals) -> u64 {
    totals.get(Counter::Completed) + totals.get(Counter::HandshakesReset)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(tracked: u64, untracked: u64, completed: u64, reset: u64) -> Totals {
        Totals::default()
            .with(Counter::SynTracked, tracked)
            .with(Counter::SynUntracked, untracked)
            .with(Counter::Completed, completed)
            .with(Counter::HandshakesReset, reset)
    }

    #[test]
    fn handshakes_are_counted_for_their_lifetime() {
        let mut window = HandshakeWindow::default();
        assert_eq!(window.count(&totals(0, 0, 0, 0), 10), 0);
        assert_eq!(window.count(&totals(400, 600, 0, 0), 10), 1000);
        assert_eq!(window.count(&totals(500, 1000, 20, 0), 12), 1480);
        assert_eq!(window.count(&totals(500, 1000, 20, 10), 17), 1470);
        assert_eq!(window.count(&totals(500, 1000, 20, 10), 18), 470);
        assert_eq!(window.count(&totals(500, 1000, 20, 10), 20), 0);
    }

    #[test]
    fn a_handshake_may_end_in_the_next_period() {
        let mut window = HandshakeWindow::default();
        assert_eq!(window.count(&totals(100, 0, 0, 0), 10), 100);
        assert_eq!(window.count(&totals(100, 0, 100, 0), 11), 0);
        assert_eq!(window.count(&totals(150, 0, 100, 0), 11), 50);
    }

    #[test]
    fn more_ends_than_beginnings_are_no_debt() {
        let mut window = HandshakeWindow::default();
        assert_eq!(window.count(&totals(5, 0, 50, 0), 10), 0);
        assert_eq!(window.count(&totals(8, 0, 50, 0), 10), 3);
    }
}

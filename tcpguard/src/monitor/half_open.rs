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

/// SYNs of sources that have no entry, within a handshake's lifetime. Those among them that completed
/// got their source an entry, and are taken off again.
#[derive(Default)]
pub struct UntrackedWindow {
    last: Option<(u64, u64)>,
    /// Period, SYNs and completions.
    slots: VecDeque<(u32, u64, u64)>,
}

impl UntrackedWindow {
    /// How many are half open in `period`.
    pub fn count(&mut self, totals: &Totals, period: u32) -> u64 {
        let now = (totals.get(Counter::SynUntracked), totals.get(Counter::CompletedUntracked));
        let before = self.last.replace(now).unwrap_or_default();
        let (syn, completed) = (now.0.saturating_sub(before.0), now.1.saturating_sub(before.1));
        match self.slots.back_mut() {
            Some(slot) if slot.0 == period => {
                slot.1 += syn;
                slot.2 += completed;
            }
            _ => self.slots.push_back((period, syn, completed)),
        }
        self.slots.retain(|slot| period.wrapping_sub(slot.0) < WINDOW_PERIODS);
        let (syn, completed) = self.slots.iter().fold((0, 0), |sum, slot| (sum.0 + slot.1, sum.1 + slot.2));
        syn.saturating_sub(completed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(syn: u64, completed: u64) -> Totals {
        Totals::default().with(Counter::SynUntracked, syn).with(Counter::CompletedUntracked, completed)
    }

    #[test]
    fn untracked_handshakes_are_counted_for_their_lifetime() {
        let mut window = UntrackedWindow::default();
        assert_eq!(window.count(&totals(0, 0), 10), 0);
        assert_eq!(window.count(&totals(1000, 0), 10), 1000);
        assert_eq!(window.count(&totals(1500, 20), 12), 1480);
        assert_eq!(window.count(&totals(1500, 20), 17), 1480);
        assert_eq!(window.count(&totals(1500, 20), 18), 480);
        assert_eq!(window.count(&totals(1500, 20), 20), 0);
    }
}

//! How many handshakes completed within the handshake lifetime. Half-open handshakes are judged in proportion to it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::time::HANDSHAKE_LIFETIME;

/// Completions are kept in portions of this length.
const PORTION: Duration = Duration::from_secs(1);

/// The handshakes completed within the handshake lifetime, by the second.
#[derive(Clone, Debug, Default)]
pub(super) struct CompletionWindow {
    began: Option<Instant>,
    last_total: u64,
    /// The end of each portion, and the completions in it; the last one goes on.
    portions: VecDeque<(Instant, u64)>,
}

impl CompletionWindow {
    /// Returns the completions within the handshake lifetime, given the total at this time and the completions in the last
    /// second. The time before the first call, at which a daemon's observation begins, counts as if the last second's rate
    /// had been the rate then: the host may have been busy, and its abandoned handshakes are still half open.
    pub fn count(&mut self, total: u64, last_second: u64, at: Instant) -> u64 {
        let began = *self.began.get_or_insert_with(|| {
            self.last_total = total;
            at
        });
        let new = total.saturating_sub(self.last_total);
        self.last_total = self.last_total.max(total);
        match self.portions.back_mut() {
            Some((end, count)) if at < *end => *count += new,
            _ => self.portions.push_back((at + PORTION, new)),
        }
        while self.portions.front().is_some_and(|(end, _)| at.saturating_duration_since(*end) > HANDSHAKE_LIFETIME) {
            self.portions.pop_front();
        }
        let unobserved = HANDSHAKE_LIFETIME.saturating_sub(at.saturating_duration_since(began));
        let before = (unobserved.as_secs_f64() * last_second as f64) as u64;
        self.portions.iter().map(|(_, count)| count).sum::<u64>() + before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_count_for_the_handshake_lifetime() {
        let mut window = CompletionWindow::default();
        let (mut counted, start) = (0, Instant::now());
        for tick in 0..2000u64 {
            counted =
                window.count(100 * tick, if tick == 0 { 0 } else { 1000 }, start + Duration::from_millis(100 * tick));
        }
        let lifetime = HANDSHAKE_LIFETIME.as_secs();
        assert!((1000 * lifetime..=1000 * (lifetime + 3)).contains(&counted), "{counted}");
        let later = |seconds| start + Duration::from_secs(200 + seconds);
        assert!(window.count(199_900, 0, later(30)) > 1000 * (lifetime - 35));
        assert_eq!(window.count(199_900, 0, later(lifetime + 5)), 0);
    }

    #[test]
    fn what_was_not_observed_is_assumed() {
        let (mut window, start) = (CompletionWindow::default(), Instant::now());
        // A daemon that starts on a host which has completed a million handshakes.
        assert_eq!(window.count(1_000_000, 0, start), 0);
        let counted = window.count(1_002_000, 20_000, start + Duration::from_millis(100));
        assert!((1_200_000..1_400_000).contains(&counted), "{counted}");
    }
}

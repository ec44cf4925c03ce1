//! Which ports are looked at in a tick although nothing is known to have changed: all of them in turn. A host may have tens of
//! thousands.

use std::{ops::Range, time::Duration};

/// A tick looks at this part of the ports,
const PART: usize = 10;
/// but on a host with more ports than this at so many that all are looked at once in a [`ROUND`]. What is prepared for cookies
/// lasts longer ([`super::readiness`]).
const MANY: usize = 3000;
const ROUND: Duration = Duration::from_secs(60);

/// Whose turn it is.
#[derive(Default)]
pub struct Turn {
    next: usize,
    last: Duration,
}

impl Turn {
    /// Returns the places of the ports that are looked at now, of so many.
    pub fn take(&mut self, ports: usize, at: Duration) -> Range<usize> {
        let elapsed = at.saturating_sub(std::mem::replace(&mut self.last, at));
        let number = match ports {
            ..=MANY => ports.div_ceil(PART),
            _ => (ports as f64 * elapsed.as_secs_f64() / ROUND.as_secs_f64()).ceil() as usize,
        };
        let first = if self.next < ports { self.next } else { 0 };
        self.next = first.saturating_add(number).min(ports);
        first..self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns how many ticks pass until each of so many ports was looked at, and how many are looked at in one at most.
    fn round(ports: usize, tick: Duration) -> (usize, usize) {
        let (mut turn, mut seen, mut most, mut at) = (Turn::default(), vec![false; ports], 0, Duration::from_secs(100));
        turn.take(ports, at);
        for ticks in 1.. {
            at += tick;
            let places = turn.take(ports, at);
            most = most.max(places.len());
            seen[places].fill(true);
            if seen.iter().all(|seen| *seen) {
                return (ticks, most);
            }
        }
        (0, 0)
    }

    #[test]
    fn every_port_has_its_turn() {
        let (quick, calm) = (Duration::from_millis(100), Duration::from_secs(1));
        assert_eq!(round(7, quick), (7, 1));
        assert_eq!(round(3000, quick), (10, 300));
        assert_eq!(round(3000, calm), (10, 300));
        assert_eq!([quick, calm].map(|tick| round(10_000, tick)), [(589, 17), (60, 167)]);
    }

    #[test]
    fn ports_may_be_gone_by_the_next_tick() {
        let mut turn = Turn::default();
        assert_eq!(turn.take(20, Duration::ZERO), 0..2);
        assert_eq!(turn.take(1, Duration::ZERO), 0..1);
        assert_eq!(turn.take(0, Duration::ZERO), 0..0);
        assert_eq!(turn.take(20, Duration::ZERO), 0..2);
        assert_eq!(turn.take(20, Duration::ZERO), 2..4);
    }
}

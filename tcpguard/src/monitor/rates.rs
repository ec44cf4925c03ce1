//! Rates over the last second.

use std::time::{Duration, Instant};

use tcpguard_common::abi::counters::{Counter, DropReason};

use crate::{datapath::maps::Totals, time::Past};

/// The span a rate covers.
const SPAN: Duration = Duration::from_millis(1050);

/// Rates per second over the last second or so.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Frames received.
    pub packets: f64,
    /// SYNs received.
    pub syn: f64,
    /// Handshakes completed.
    pub completed: f64,
    /// SYN-ACKs retransmitted.
    pub retried: f64,
    /// RST segments received.
    pub rst: f64,
    /// SYNs from impossible addresses, dropped or not.
    pub impossible: f64,
    /// Frames dropped.
    pub dropped: f64,
    /// SYNs answered with a cookie.
    pub challenged: f64,
    /// The estimated number of different sources of SYNs.
    pub distinct_sources: f64,
}

/// Keeps the totals of the last second.
pub struct RateMeter {
    past: Past<Instant, Totals>,
}

impl Default for RateMeter {
    fn default() -> Self {
        Self { past: Past::new(SPAN) }
    }
}

impl RateMeter {
    /// Returns the rates at the time of the call.
    pub fn measure(&mut self, totals: &Totals, distinct_sources: f64) -> Rates {
        self.measure_at(Instant::now(), totals, distinct_sources)
    }

    fn measure_at(&mut self, now: Instant, totals: &Totals, distinct_sources: f64) -> Rates {
        let rates = self.past.oldest(now).map(|(before, seconds)| rates(totals, before, seconds));
        self.past.add(now, *totals);
        Rates { distinct_sources, ..rates.unwrap_or_default() }
    }
}

/// Returns the rates, except for the number of sources, from the totals of `seconds` ago to the present ones.
fn rates(totals: &Totals, before: &Totals, seconds: f64) -> Rates {
    let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
    let of = |counter| rate(totals.get(counter), before.get(counter));
    Rates {
        packets: of(Counter::Packets),
        syn: rate(totals.syn(), before.syn()),
        completed: of(Counter::Completed),
        retried: of(Counter::Retried),
        rst: of(Counter::Rst),
        impossible: [DropReason::ImpossibleSource.counter(), DropReason::ImpossibleSource.would_counter()]
            .map(of)
            .iter()
            .sum(),
        dropped: rate(totals.dropped(), before.dropped()),
        challenged: rate(totals.challenged(), before.challenged()),
        distinct_sources: 0.0,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn rates_are_over_the_last_second() {
        let mut meter = RateMeter::default();
        let start = Instant::now();
        for tick in 0..40u32 {
            let totals = Totals::default().with(Counter::SynTracked, u64::from(tick) * 50);
            let rates = meter.measure_at(start + Duration::from_millis(100) * tick, &totals, 0.0);
            if tick > 0 {
                assert!((rates.syn - 500.0).abs() < 1.0, "{rates:?}");
            }
        }
        let totals = Totals::default().with(Counter::SynTracked, 39 * 50);
        for tick in 40..51u32 {
            meter.measure_at(start + Duration::from_millis(100) * tick, &totals, 0.0);
        }
        let rates = meter.measure_at(start + Duration::from_millis(5100), &totals, 0.0);
        assert_eq!(rates.syn, 0.0);
    }
}

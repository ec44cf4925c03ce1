//! The last fifteen minutes, one sample per second. Charts are drawn from these samples, even on a page opened later.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tcpguard_common::abi::counters::Counter;

use crate::{
    datapath::maps::Totals,
    detect::Phase,
    monitor::{HalfOpenCounts, Snapshot, TICK},
};

/// The number of samples kept: fifteen minutes.
pub const MAX_SAMPLES: usize = 15 * 60;
/// The interval between two samples.
const STEP: Duration = Duration::from_secs(1);

/// The rates over one second, and the state at its end.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The end of the second.
    pub time: Timestamp,
    /// The phase at that time.
    pub phase: Phase,
    /// SYNs per second.
    pub syn: f64,
    /// Handshakes completed per second.
    pub completed: f64,
    /// Frames dropped per second.
    pub dropped: f64,
    /// SYNs answered with a cookie, per second.
    pub challenged: f64,
    /// The estimated number of different sources of SYNs per second.
    pub distinct_sources: f64,
    /// Numbers of half-open handshakes.
    pub half_open: HalfOpenCounts,
}

/// The samples; clones share them.
#[derive(Clone, Default)]
pub struct History(Arc<Mutex<VecDeque<Sample>>>);

impl History {
    /// Returns all samples, the oldest first.
    pub fn samples(&self) -> Vec<Sample> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn push(&self, sample: Sample) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() == MAX_SAMPLES {
            samples.pop_front();
        }
        samples.push_back(sample);
    }
}

/// Derives samples from snapshots. The rates of all samples, multiplied by their durations, add up to the totals.
pub struct Sampler {
    history: History,
    last: Option<(Instant, Totals)>,
}

impl Sampler {
    /// Creates a sampler that adds to `history`.
    pub const fn new(history: History) -> Self {
        Self { history, last: None }
    }

    /// Takes a sample if one is due, and returns whether it did.
    pub fn note(&mut self, snapshot: &Snapshot, phase: Phase, now: Instant) -> bool {
        let Some((then, before)) = self.last else {
            self.last = Some((now, snapshot.totals));
            return false;
        };
        let seconds = (now - then).as_secs_f64();
        // The tick nearest to a full second takes the sample, slightly early or late.
        if now - then < STEP - TICK / 2 {
            return false;
        }
        self.last = Some((now, snapshot.totals));
        let rate = |count: fn(&Totals) -> u64| count(&snapshot.totals).saturating_sub(count(&before)) as f64 / seconds;
        self.history.push(Sample {
            time: snapshot.clock.now(),
            phase,
            syn: rate(Totals::syn),
            completed: rate(|totals| totals.get(Counter::Completed)),
            dropped: rate(Totals::dropped),
            challenged: rate(Totals::challenged),
            distinct_sources: snapshot.rates.distinct_sources,
            half_open: snapshot.half_open,
        });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(second: i64) -> Sample {
        Sample {
            time: Timestamp::from_second(second).expect("a time"),
            phase: Phase::Calm,
            syn: 1.0,
            completed: 0.0,
            dropped: 0.0,
            challenged: 0.0,
            distinct_sources: 0.0,
            half_open: HalfOpenCounts::default(),
        }
    }

    #[test]
    fn fifteen_minutes_are_kept() {
        let history = History::default();
        for second in 0..2000 {
            history.push(sample(second));
        }
        let samples = history.samples();
        assert_eq!(samples.len(), MAX_SAMPLES);
        assert_eq!((samples[0].time.as_second(), samples[MAX_SAMPLES - 1].time.as_second()), (1100, 1999));
    }
}

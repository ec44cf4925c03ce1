//! The last fifteen minutes, a sample a second: what charts are drawn from, also on a page that is opened late.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tcpguard_common::counters::Counter;

use crate::{
    datapath::maps::Totals,
    detect::Phase,
    monitor::{HalfOpenCounts, Snapshot, TICK},
};

/// Samples that are kept: fifteen minutes.
pub const MOST_SAMPLES: usize = 15 * 60;
/// Time between two of them.
const STEP: Duration = Duration::from_secs(1);

/// What happened in one second, and how things stood at its end.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// When it ended.
    pub time: Timestamp,
    /// How things were judged.
    pub phase: Phase,
    /// SYNs a second.
    pub syn: f64,
    /// Handshakes completed a second.
    pub completed: f64,
    /// Frames dropped a second.
    pub dropped: f64,
    /// SYNs answered with a cookie a second.
    pub challenged: f64,
    /// Different sources of SYNs a second, about.
    pub distinct_sources: f64,
    /// Half-open handshakes.
    pub half_open: HalfOpenCounts,
}

/// The samples; copies share them.
#[derive(Clone, Default)]
pub struct History(Arc<Mutex<VecDeque<Sample>>>);

impl History {
    /// All samples, the oldest first.
    pub fn samples(&self) -> Vec<Sample> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn push(&self, sample: Sample) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() == MOST_SAMPLES {
            samples.pop_front();
        }
        samples.push_back(sample);
    }
}

/// Makes samples of snapshots, so that their rates, each for as long as it lasted, add up to the totals.
pub struct Sampler {
    history: History,
    last: Option<(Instant, Totals)>,
}

impl Sampler {
    /// Adds to `history`.
    pub const fn new(history: History) -> Self {
        Self { history, last: None }
    }

    /// Takes a sample, where one is due; whether it did.
    pub fn note(&mut self, snapshot: &Snapshot, phase: Phase, now: Instant) -> bool {
        let Some((then, before)) = self.last else {
            self.last = Some((now, snapshot.totals));
            return false;
        };
        let seconds = (now - then).as_secs_f64();
        // The tick that is nearest to a second is the one, a little too early or too late.
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
        assert_eq!(samples.len(), MOST_SAMPLES);
        assert_eq!((samples[0].time.as_second(), samples[MOST_SAMPLES - 1].time.as_second()), (1100, 1999));
    }
}

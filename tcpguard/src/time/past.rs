//! Values of the recent past, from which increases and rates are measured.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Less time than this counts as this much: what happens to arrive between two ticks that follow each other at once is no
/// rate.
const LEAST_SECONDS: f64 = 0.05;

/// A point in time by some clock.
pub trait Moment: Copy {
    /// Returns the time from `earlier` to this one; 0 if it is later.
    fn since(self, earlier: Self) -> Duration;
}

impl Moment for Instant {
    fn since(self, earlier: Self) -> Duration {
        self.saturating_duration_since(earlier)
    }
}

impl Moment for Duration {
    fn since(self, earlier: Self) -> Duration {
        self.saturating_sub(earlier)
    }
}

/// The values of the last ticks: those within a span, and the newest before it. The time between two ticks varies
/// ([`crate::daemon`]), and may be longer than the span.
#[derive(Clone, Debug)]
pub struct Past<At, T> {
    span: Duration,
    values: VecDeque<(At, T)>,
}

impl<At: Moment, T> Past<At, T> {
    /// Creates an empty past that reaches back for `span`.
    pub const fn new(span: Duration) -> Self {
        Self { span, values: VecDeque::new() }
    }

    /// Adds the value of the present, and forgets those that are no longer needed.
    pub fn add(&mut self, at: At, value: T) {
        self.values.push_back((at, value));
        while self.values.get(1).is_some_and(|(then, _)| at.since(*then) > self.span) {
            self.values.pop_front();
        }
    }

    /// Returns the oldest value of the last `span`, or the newest before it if there is none, and the seconds since then;
    /// `None` if no time has passed since the first value. `span` is at most the one that the past reaches back for.
    pub fn before(&self, at: At, span: Duration) -> Option<(&T, f64)> {
        let within = self.values.iter().find(|(then, _)| at.since(*then) <= span);
        let (then, value) = within.or(self.values.back())?;
        let seconds = at.since(*then).as_secs_f64();
        (seconds > 0.0).then_some((value, seconds.max(LEAST_SECONDS)))
    }

    /// Returns how much a total, which is `now` at present, has grown within the whole span. It is taken to have grown evenly
    /// between two values, one of which is older.
    pub fn growth(&self, at: At, now: u64, of: impl Fn(&T) -> u64) -> u64 {
        let is_within = |(then, _): &&(At, T)| at.since(*then) <= self.span;
        let older = self.values.iter().rev().find(|value| !is_within(value));
        let newer = self.values.iter().find(is_within);
        let (from, total) = newer.map_or((at, now), |(then, value)| (*then, of(value)));
        let before = older.map_or(0.0, |(then, value)| {
            let within = self.span.saturating_sub(at.since(from)).as_secs_f64();
            total.saturating_sub(of(value)) as f64
                * (within / from.since(*then).as_secs_f64().max(LEAST_SECONDS)).min(1.0)
        });
        now.saturating_sub(total) + before.round() as u64
    }

    /// Returns what [`Past::before`] does, for the whole span.
    pub fn oldest(&self, at: At) -> Option<(&T, f64)> {
        self.before(at, self.span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Duration = Duration::from_secs(1);

    fn past(milliseconds: &[u64]) -> Past<Duration, u64> {
        let mut past = Past::new(SPAN);
        for at in milliseconds {
            past.add(Duration::from_millis(*at), *at);
        }
        past
    }

    fn before(past: &Past<Duration, u64>, at: u64, span: u64) -> Option<u64> {
        past.before(Duration::from_millis(at), Duration::from_millis(span)).map(|(value, _)| *value)
    }

    #[test]
    fn the_oldest_value_within_the_span_counts() {
        let past = past(&[0, 100, 200, 300, 400, 500]);
        assert_eq!(before(&past, 600, 450), Some(200));
        assert_eq!(before(&past, 600, 1000), Some(0));
        assert_eq!(past.oldest(Duration::from_millis(1050)), Some((&100, 0.95)));
    }

    #[test]
    fn values_further_apart_than_the_span_still_tell_a_rate() {
        let past = past(&[0, 3000]);
        assert_eq!(before(&past, 6000, 450), Some(3000));
        assert_eq!(past.oldest(Duration::from_millis(6000)), Some((&3000, 3.0)));
    }

    #[test]
    fn a_second_has_no_more_in_it_however_late_a_tick_is() {
        let growth = |past: &Past<Duration, u64>, at: u64| past.growth(Duration::from_millis(at), at, |value| *value);
        assert_eq!(growth(&past(&[0, 100, 200]), 300), 300, "less than a second has passed");
        assert_eq!(growth(&past(&[0, 500, 1000]), 1000), 1000);
        assert_eq!(growth(&past(&[0, 500, 1000]), 1200), 1000);
        assert_eq!(growth(&past(&[0, 1000]), 2900), 1000);
        assert_eq!(growth(&past(&[0, 1000, 2900]), 3000), 1000);
        assert_eq!(growth(&past(&[]), 500), 0);
        let burst = Past { values: VecDeque::from([(Duration::ZERO, 0), (SPAN, 0)]), span: SPAN };
        assert_eq!(burst.growth(SPAN + SPAN / 2, 6, |value| *value), 6);
    }

    #[test]
    fn nothing_can_be_said_before_time_has_passed() {
        assert_eq!(before(&past(&[]), 100, 1000), None);
        assert_eq!(before(&past(&[100]), 100, 1000), None);
        assert_eq!(before(&past(&[100]), 50, 1000), None, "the clock was set back");
    }

    #[test]
    fn what_is_no_longer_needed_is_forgotten() {
        assert_eq!(past(&[0, 100, 1000, 1150, 1250]).values.len(), 4);
        assert_eq!(past(&[0, 3000, 6000]).values.len(), 2);
    }
}

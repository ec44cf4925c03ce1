//! How often something is read whose cost grows with the host: its sockets, whose table the kernel walks for each dump.

use std::time::{Duration, Instant};

use super::processor_time;

/// What a reading may cost, and how often there is one nevertheless.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The share of one core that reading takes at most in calm.
    pub calm: f64,
    /// Likewise while something happens.
    pub alert: f64,
    /// The longest time between two readings in calm.
    pub longest_calm: Duration,
    /// Likewise while something happens.
    pub longest_alert: Duration,
}

/// Spaces readings so that they take no more than a share of one core, whatever a single one costs. Where a reading is
/// cheap, each tick has one.
#[derive(Debug)]
pub struct Pace {
    limits: Limits,
    /// When the last reading ended, and the processor time that it took.
    last: Option<(Instant, Duration)>,
}

impl Pace {
    /// Creates the pace of something that has not been read yet.
    pub const fn new(limits: Limits) -> Self {
        Self { limits, last: None }
    }

    /// Applies changed limits.
    pub const fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Returns whether the next reading is due.
    pub fn is_due(&self, is_alert: bool, now: Instant) -> bool {
        self.last.is_none_or(|(ended, took)| now.duration_since(ended) >= self.pause(took, is_alert))
    }

    /// Reads, and notes how long that took.
    pub fn measure<T>(&mut self, read: impl FnOnce() -> T) -> T {
        let before = processor_time();
        let answer = read();
        self.last = Some((Instant::now(), processor_time().saturating_sub(before)));
        answer
    }

    /// Returns when the last reading ended, if there was one.
    pub fn last_end(&self) -> Option<Instant> {
        self.last.map(|(ended, _)| ended)
    }

    /// Returns the time from the end of a reading that took `took` to the next one.
    fn pause(&self, took: Duration, is_alert: bool) -> Duration {
        let Limits { calm, alert, longest_calm, longest_alert } = self.limits;
        let (share, longest) = if is_alert { (alert, longest_alert) } else { (calm, longest_calm) };
        Duration::try_from_secs_f64(took.as_secs_f64() / share).unwrap_or(longest).min(longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        calm: 0.005,
        alert: 0.03,
        longest_calm: Duration::from_secs(60),
        longest_alert: Duration::from_secs(5),
    };

    fn pace(took: Duration, ended: Instant) -> Pace {
        Pace { limits: LIMITS, last: Some((ended, took)) }
    }

    #[test]
    fn the_first_reading_is_due_at_once() {
        assert!(Pace::new(LIMITS).is_due(false, Instant::now()));
    }

    #[test]
    fn a_cheap_reading_is_due_with_each_tick() {
        let ended = Instant::now();
        assert!(pace(Duration::from_micros(100), ended).is_due(false, ended + Duration::from_millis(100)));
    }

    #[test]
    fn a_dear_reading_keeps_to_its_share() {
        let ended = Instant::now();
        let pace = pace(Duration::from_millis(50), ended);
        for (is_alert, pause) in [(false, Duration::from_secs(10)), (true, Duration::from_millis(1667))] {
            assert!(!pace.is_due(is_alert, ended + pause.mul_f64(0.99)), "{is_alert}");
            assert!(pace.is_due(is_alert, ended + pause.mul_f64(1.01)), "{is_alert}");
        }
    }

    #[test]
    fn however_dear_it_is_read_now_and_then() {
        let ended = Instant::now();
        let pace = pace(Duration::from_secs(100), ended);
        assert!(!pace.is_due(true, ended + LIMITS.longest_alert - Duration::from_secs(1)));
        assert!(pace.is_due(true, ended + LIMITS.longest_alert));
        assert!(!pace.is_due(false, ended + LIMITS.longest_alert));
        assert!(pace.is_due(false, ended + LIMITS.longest_calm));
    }

    #[test]
    fn processor_time_is_measured() {
        let mut pace = Pace::new(LIMITS);
        let sum = pace.measure(|| (0..3_000_000_u64).fold(0, |sum: u64, next| std::hint::black_box(sum ^ next)));
        std::hint::black_box(sum);
        let (_, took) = pace.last.expect("it was measured");
        assert!(took > Duration::from_micros(100), "{took:?}");
        pace.measure(|| std::thread::sleep(Duration::from_millis(20)));
        let (_, slept) = pace.last.expect("it was measured");
        assert!(slept < Duration::from_millis(10), "{slept:?}");
    }
}

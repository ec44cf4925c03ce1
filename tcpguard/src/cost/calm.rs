//! The time between two ticks in calm: longer where the daemon would use more of the processor than it may.

use std::time::{Duration, Instant};

/// The time between two ticks in calm where they are cheap enough.
const SHORTEST: Duration = Duration::from_secs(1);
/// The longest that it gets; a short lease or a watchdog allows less.
const LONGEST: Duration = Duration::from_secs(8);
/// The time over which the share is measured.
const MEASURED_OVER: Duration = Duration::from_secs(10);

/// Chooses the time between two ticks in calm.
#[derive(Debug)]
pub struct CalmPace {
    /// The share of one core that may be used.
    limit: f64,
    pause: Duration,
    /// When the measurement began, and the daemon's processor time then; `None` if something has happened since.
    since: Option<(Instant, Duration)>,
    /// The share when it was measured last.
    share: f64,
}

/// The pause became longer, or is as short again as it should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// Longer, because this share of one core was used.
    Longer(f64),
    /// As short again as it should be.
    Normal,
}

impl CalmPace {
    /// Creates a pace that starts with the shortest pause.
    pub const fn new(limit: f64) -> Self {
        Self { limit, pause: SHORTEST, since: None, share: 0.0 }
    }

    /// Applies a changed limit.
    pub const fn set_limit(&mut self, limit: f64) {
        self.limit = limit;
    }

    /// Returns the time between two ticks in calm.
    pub const fn pause(&self) -> Duration {
        self.pause
    }

    /// Notes a tick, after which the daemon has used `cpu` of processor time without that for requests; `is_busy` if something
    /// happened. The pause gets no longer than `longest`.
    pub fn note(&mut self, is_busy: bool, cpu: Duration, longest: Duration, now: Instant) -> Option<Change> {
        let longest = longest.clamp(SHORTEST, LONGEST);
        self.pause = self.pause.min(longest);
        if is_busy {
            self.since = None;
            return None;
        }
        let (began, before) = *self.since.get_or_insert((now, cpu));
        let lasted = now.saturating_duration_since(began);
        if lasted < MEASURED_OVER {
            return None;
        }
        self.since = Some((now, cpu));
        self.share = cpu.saturating_sub(before).as_secs_f64() / lasted.as_secs_f64();
        if self.share > self.limit {
            let is_first = self.pause == SHORTEST && longest > SHORTEST;
            self.pause = (self.pause * 2).min(longest);
            return is_first.then_some(Change::Longer(self.share));
        }
        // Half the pause costs up to twice as much.
        if self.pause > SHORTEST && self.share * 2.0 < self.limit {
            self.pause = (self.pause / 2).max(SHORTEST);
            return (self.pause == SHORTEST).then_some(Change::Normal);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs for `seconds` in calm, with ticks that take `each` of processor time, and returns the changes.
    fn run(pace: &mut CalmPace, now: &mut Instant, cpu: &mut Duration, each: Duration, seconds: u64) -> Vec<Change> {
        let end = *now + Duration::from_secs(seconds);
        let mut changes = Vec::new();
        while *now < end {
            *now += pace.pause();
            *cpu += each;
            changes.extend(pace.note(false, *cpu, LONGEST, *now));
        }
        changes
    }

    #[test]
    fn it_looks_less_often_for_as_long_as_it_would_cost_too_much() {
        let (mut pace, mut now, mut cpu) = (CalmPace::new(0.02), Instant::now(), Duration::ZERO);
        assert!(run(&mut pace, &mut now, &mut cpu, Duration::from_millis(20), 60).is_empty(), "2 % are allowed");
        let changes = run(&mut pace, &mut now, &mut cpu, Duration::from_millis(50), 60);
        assert!(matches!(changes[..], [Change::Longer(share)] if (0.02..=0.05).contains(&share)), "{changes:?}");
        assert_eq!(pace.pause(), Duration::from_secs(4));
        assert!(run(&mut pace, &mut now, &mut cpu, Duration::from_secs(1), 60).is_empty(), "it is said once");
        assert_eq!(pace.pause(), LONGEST);
        assert_eq!(run(&mut pace, &mut now, &mut cpu, Duration::from_millis(5), 120), [Change::Normal]);
        assert_eq!(pace.pause(), SHORTEST);
    }

    #[test]
    fn what_an_attack_costs_does_not_count() {
        let (mut pace, mut now, mut cpu) = (CalmPace::new(0.02), Instant::now(), Duration::ZERO);
        for tick in 0..1000 {
            now += Duration::from_millis(100);
            cpu += Duration::from_millis(50);
            assert_eq!(pace.note(tick % 20 == 0, cpu, LONGEST, now), None);
        }
        assert_eq!(pace.pause(), SHORTEST);
    }

    #[test]
    fn nothing_is_said_where_the_lease_allows_no_longer_pause() {
        let (mut pace, mut now, mut cpu) = (CalmPace::new(0.02), Instant::now(), Duration::ZERO);
        for _ in 0..60 {
            now += SHORTEST;
            cpu += Duration::from_millis(500);
            assert_eq!(pace.note(false, cpu, SHORTEST, now), None);
        }
        assert_eq!(pace.pause(), SHORTEST);
    }
}

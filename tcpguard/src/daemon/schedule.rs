//! When the next tick is due: a tenth of a second after the last one while something happens, and a second or more after
//! it in calm ([`crate::cost::CalmPace`]). The datapath wakes the daemon when something begins to happen.

use std::time::Duration;

use tokio::time::Instant;

use crate::monitor::TICK;

/// For how long something is taken to happen after it was last seen.
const LINGERS: Duration = Duration::from_secs(1);

/// The times of the ticks.
pub(super) struct Schedule {
    /// When the last tick began.
    last: Instant,
    due: Instant,
    /// Until when ticks follow each other quickly.
    busy_until: Instant,
}

impl Schedule {
    /// Creates a schedule whose first tick is due at once.
    pub fn new(now: Instant) -> Self {
        Self { last: now, due: now, busy_until: now }
    }

    /// Returns when the next tick is due.
    pub const fn due(&self) -> Instant {
        self.due
    }

    /// Notes that a tick begins, and returns by how much it is late.
    pub fn begin(&mut self, now: Instant) -> Duration {
        self.last = now;
        now.saturating_duration_since(self.due)
    }

    /// Notes that a tick has ended, and plans the next one: after `calm`, or quickly if `is_busy`.
    /// Ticks that were missed are not made up for, so that everything else is done in between.
    pub fn end(&mut self, is_busy: bool, calm: Duration, now: Instant) {
        if is_busy {
            self.busy_until = now + LINGERS;
        }
        let pause = if now < self.busy_until { TICK } else { calm.max(TICK) };
        self.due = if self.due + pause > now { self.due + pause } else { now + pause };
    }

    /// Moves the next tick to the earliest time, because its result is waited for.
    pub fn hurry(&mut self, now: Instant) {
        self.due = self.due.min((self.last + TICK).max(now));
    }

    /// Does so because something happens.
    pub fn wake(&mut self, now: Instant) {
        self.busy_until = now + LINGERS;
        self.hurry(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const SECOND: Duration = Duration::from_secs(1);

    /// Lets the ticks of `schedule` happen, without taking any time, until one is due later than `until`; returns how many
    /// there were.
    fn run(schedule: &mut Schedule, until: Instant, is_busy: bool, calm: Duration) -> u32 {
        let mut ticks = 0;
        while schedule.due() <= until {
            let now = schedule.due();
            assert_eq!(schedule.begin(now), Duration::ZERO);
            schedule.end(is_busy, calm, now);
            ticks += 1;
        }
        ticks
    }

    fn calm(start: Instant) -> Schedule {
        let mut schedule = Schedule::new(start);
        run(&mut schedule, start + LONG, false, SECOND);
        schedule
    }

    #[test]
    fn there_is_a_tick_a_second_in_calm_and_ten_while_something_happens() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start);
        assert_eq!(run(&mut schedule, start + LONG, false, SECOND), 61);
        let later = schedule.due();
        assert_eq!(run(&mut schedule, later + LONG, true, SECOND), 601);
    }

    #[test]
    fn it_is_woken_at_once_and_stays_awake_for_a_while() {
        let start = Instant::now();
        let mut schedule = calm(start);
        let now = schedule.due() - Duration::from_millis(500);
        schedule.wake(now);
        assert_eq!(schedule.due(), now);
        assert_eq!(run(&mut schedule, now + LINGERS - TICK, false, SECOND), 10);
        assert_eq!(run(&mut schedule, now + LONG, false, SECOND), 60);
    }

    #[test]
    fn whoever_asks_gets_one_tick_and_no_more_than_ten_a_second() {
        let mut schedule = calm(Instant::now());
        let now = schedule.due() - Duration::from_millis(950);
        schedule.hurry(now);
        assert_eq!(schedule.due(), now + Duration::from_millis(50), "a tenth of a second after the last one");
        assert_eq!(run(&mut schedule, now + Duration::from_secs(3), false, SECOND), 3);
    }

    #[test]
    fn a_tick_is_never_put_off() {
        let mut schedule = calm(Instant::now());
        let due = schedule.due();
        schedule.hurry(due + LONG);
        assert_eq!(schedule.due(), due);
    }

    #[test]
    fn a_short_lease_is_renewed_in_time() {
        let start = Instant::now();
        let mut schedule = calm(start);
        let from = schedule.due();
        assert_eq!(run(&mut schedule, from + Duration::from_secs(10), false, Duration::from_millis(250)), 41);
    }

    #[test]
    fn late_ticks_are_not_made_up_for() {
        let mut schedule = calm(Instant::now());
        let now = schedule.due() + Duration::from_secs(7);
        assert_eq!(schedule.begin(now), Duration::from_secs(7));
        schedule.end(true, SECOND, now + Duration::from_millis(130));
        assert_eq!(schedule.due(), now + Duration::from_millis(230));
    }
}

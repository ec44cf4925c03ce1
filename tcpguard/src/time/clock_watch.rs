//! Detects that a clock jumped, or that the host was suspended. No decision of tcpguard depends on the wall clock; only
//! the times it reports do.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use nix::time::{ClockId, clock_gettime};

/// A smaller deviation within one tick is due to a clock adjustment or a late reading.
const MIN_JUMP: SignedDuration = SignedDuration::from_secs(2);

/// Three clocks, read at the same time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    wall: Timestamp,
    /// `CLOCK_MONOTONIC`, which stops while the host is suspended.
    running: Duration,
    /// `CLOCK_BOOTTIME`, which includes suspended time.
    existing: Duration,
}

impl Reading {
    /// Reads the clocks.
    pub fn now() -> Self {
        let read = |clock| clock_gettime(clock).map(Duration::from).unwrap_or_default();
        Self {
            wall: Timestamp::now(),
            running: read(ClockId::CLOCK_MONOTONIC),
            existing: read(ClockId::CLOCK_BOOTTIME),
        }
    }
}

/// Compares each reading with the previous one.
#[derive(Default)]
pub(crate) struct ClockWatch(Option<Reading>);

impl ClockWatch {
    /// Returns a sentence about what happened since the previous reading, if anything did.
    pub fn note(&mut self, now: Reading) -> Option<String> {
        let before = self.0.replace(now)?;
        let ran = signed(now.running.saturating_sub(before.running));
        let existed = signed(now.existing.saturating_sub(before.existing));
        let slept = existed - ran;
        if slept >= MIN_JUMP {
            return Some(format!(
                "the host was suspended for {}; blocks, limits and list entries continue where they were",
                rounded(slept)
            ));
        }
        let jump = now.wall.duration_since(before.wall) - existed;
        (jump.abs() >= MIN_JUMP).then(|| {
            let how = if jump.is_negative() { "back" } else { "ahead" };
            format!(
                "the clock was set {how} by {}; blocks, limits and list entries use another clock, and only \
                 displayed times change",
                rounded(jump.abs())
            )
        })
    }
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

/// Formats a duration to the second, as in "1h 5s".
fn rounded(duration: SignedDuration) -> String {
    let rounded = SignedDuration::from_secs((duration + SignedDuration::from_millis(500)).as_secs());
    format!("{rounded:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(wall: i64, running: u64, existing: u64) -> Reading {
        let wall = Timestamp::from_second(1_800_000_000 + wall).expect("a time");
        Reading { wall, running: Duration::from_secs(running), existing: Duration::from_secs(existing) }
    }

    #[test]
    fn an_hour_of_sleep_and_a_clock_set_back_are_told_apart() {
        let mut watch = ClockWatch::default();
        assert_eq!(watch.note(reading(0, 100, 100)), None);
        assert_eq!(watch.note(reading(1, 101, 101)), None);
        let slept = watch.note(reading(3602, 102, 3702)).expect("told");
        assert!(slept.contains("the host was suspended for 1h"), "{slept}");
        let back = watch.note(reading(3602 - 86_400, 103, 3703)).expect("told");
        assert!(back.contains("set back by 24h"), "{back}");
        let ahead = watch.note(reading(3604 - 86_400 + 600, 104, 3704)).expect("told");
        assert!(ahead.contains("set ahead by 10m"), "{ahead}");
        assert_eq!(watch.note(reading(3605 - 86_400 + 600, 105, 3705)), None);
    }
}

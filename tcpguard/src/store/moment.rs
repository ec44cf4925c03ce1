//! Moments that are still understood after a restart: within one boot of the host by the clock that nobody sets, after
//! that by the wall clock.

use std::{fs, sync::LazyLock, time::Duration};

use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Which boot of the host it was in.
    boot: String,
    /// Milliseconds of `CLOCK_MONOTONIC`, which counts from the boot on, and not while the host sleeps.
    monotonic: u64,
    /// By the wall clock.
    wall: Timestamp,
}

static BOOT: LazyLock<String> = LazyLock::new(|| {
    // Where it cannot be read every restart counts as one of the host.
    let read = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    read.map_or_else(|_| format!("unknown since process {}", std::process::id()), |text| text.trim().to_owned())
});

fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    now.as_millis() as u64
}

impl Moment {
    /// Now.
    pub fn now() -> Self {
        Self { boot: BOOT.clone(), monotonic: monotonic(), wall: Timestamp::now() }
    }

    /// When `duration` will have passed.
    pub fn after(duration: Duration) -> Self {
        let now = Self::now();
        Self {
            monotonic: now.monotonic.saturating_add(duration.as_millis() as u64),
            wall: now.wall.saturating_add(duration).unwrap_or(Timestamp::MAX),
            ..now
        }
    }

    /// How long it still is until then, at `now`; zero where that is past, and never more than `longest`, whatever the
    /// wall clock was set to.
    pub fn remaining(&self, now: &Self, longest: Duration) -> Duration {
        let remaining = if self.boot == now.boot {
            Duration::from_millis(self.monotonic.saturating_sub(now.monotonic))
        } else {
            self.wall.duration_since(now.wall).try_into().unwrap_or(Duration::ZERO)
        };
        remaining.min(longest)
    }

    /// How long ago it was, at `now`; zero where it is still to come.
    pub fn elapsed(&self, now: &Self) -> Duration {
        if self.boot == now.boot {
            Duration::from_millis(now.monotonic.saturating_sub(self.monotonic))
        } else {
            now.wall.duration_since(self.wall).try_into().unwrap_or(Duration::ZERO)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn moment(boot: &str, monotonic: u64, wall: &str) -> Moment {
        Moment { boot: boot.to_owned(), monotonic, wall: wall.parse().expect("a time") }
    }

    #[test]
    fn within_a_boot_the_wall_clock_does_not_matter() {
        let until = moment("a", 60_000, "2026-11-20T10:01:00Z");
        for wall in ["2026-11-19T10:00:00Z", "2026-11-20T10:00:00Z", "2027-01-01T00:00:00Z"] {
            assert_eq!(until.remaining(&moment("a", 15_000, wall), HOUR), Duration::from_secs(45));
        }
        assert_eq!(until.remaining(&moment("a", 61_000, "2026-11-20T10:00:00Z"), HOUR), Duration::ZERO);
        assert_eq!(until.elapsed(&moment("a", 61_000, "2020-01-01T00:00:00Z")), Duration::from_secs(1));
    }

    #[test]
    fn after_a_reboot_it_does_but_never_makes_it_longer() {
        let until = moment("a", 60_000, "2026-11-20T10:01:00Z");
        assert_eq!(until.remaining(&moment("b", 0, "2026-11-20T10:00:30Z"), HOUR), Duration::from_secs(30));
        assert_eq!(until.remaining(&moment("b", 0, "2026-11-19T10:00:00Z"), HOUR), HOUR);
        assert_eq!(until.remaining(&moment("b", 0, "2026-11-20T10:02:00Z"), HOUR), Duration::ZERO);
        assert_eq!(until.elapsed(&moment("b", 0, "2026-11-19T10:00:00Z")), Duration::ZERO);
    }
}

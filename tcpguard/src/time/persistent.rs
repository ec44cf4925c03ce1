//! Persistent time: points in time that remain meaningful after a restart. Within one boot of the host they are
//! compared by the monotonic clock, which cannot be set; after a reboot by the wall clock.

use std::{fs, sync::LazyLock, time::Duration};

use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A point in time that survives a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersistentTime {
    /// The id of the boot it belongs to, from `/proc/sys/kernel/random/boot_id`.
    boot: String,
    /// Milliseconds of `CLOCK_MONOTONIC`, which counts from boot and stops while the host is suspended.
    monotonic: u64,
    /// The same point in time by the wall clock.
    wall: Timestamp,
}

static BOOT: LazyLock<String> = LazyLock::new(|| {
    // If the id cannot be read, every restart of the daemon counts as a reboot.
    let read = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    read.map_or_else(|_| format!("unknown since process {}", std::process::id()), |text| text.trim().to_owned())
});

fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    now.as_millis() as u64
}

impl PersistentTime {
    /// Returns the present time.
    pub fn now() -> Self {
        Self { boot: BOOT.clone(), monotonic: monotonic(), wall: Timestamp::now() }
    }

    /// Returns the time `duration` from now.
    pub fn after(duration: Duration) -> Self {
        let now = Self::now();
        Self {
            monotonic: now.monotonic.saturating_add(duration.as_millis() as u64),
            wall: now.wall.saturating_add(duration).unwrap_or(Timestamp::MAX),
            ..now
        }
    }

    /// Returns the time `duration` ago.
    #[cfg(test)]
    pub(crate) fn before(duration: Duration) -> Self {
        let now = Self::now();
        Self { monotonic: now.monotonic.saturating_sub(duration.as_millis() as u64), ..now }
    }

    /// Returns the time from `now` until this point; zero if it has passed, and at most `longest`, whatever the wall
    /// clock was set to.
    pub fn remaining(&self, now: &Self, longest: Duration) -> Duration {
        let remaining = if self.boot == now.boot {
            Duration::from_millis(self.monotonic.saturating_sub(now.monotonic))
        } else {
            self.wall.duration_since(now.wall).try_into().unwrap_or(Duration::ZERO)
        };
        remaining.min(longest)
    }

    /// Returns the time from this point until `now`; zero if it has not been reached.
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

    fn at(boot: &str, monotonic: u64, wall: &str) -> PersistentTime {
        PersistentTime { boot: boot.to_owned(), monotonic, wall: wall.parse().expect("a time") }
    }

    #[test]
    fn within_a_boot_the_wall_clock_does_not_matter() {
        let until = at("a", 60_000, "2026-11-20T10:01:00Z");
        for wall in ["2026-11-19T10:00:00Z", "2026-11-20T10:00:00Z", "2027-01-01T00:00:00Z"] {
            assert_eq!(until.remaining(&at("a", 15_000, wall), HOUR), Duration::from_secs(45));
        }
        assert_eq!(until.remaining(&at("a", 61_000, "2026-11-20T10:00:00Z"), HOUR), Duration::ZERO);
        assert_eq!(until.elapsed(&at("a", 61_000, "2020-01-01T00:00:00Z")), Duration::from_secs(1));
    }

    #[test]
    fn after_a_reboot_it_does_but_never_makes_it_longer() {
        let until = at("a", 60_000, "2026-11-20T10:01:00Z");
        assert_eq!(until.remaining(&at("b", 0, "2026-11-20T10:00:30Z"), HOUR), Duration::from_secs(30));
        assert_eq!(until.remaining(&at("b", 0, "2026-11-19T10:00:00Z"), HOUR), HOUR);
        assert_eq!(until.remaining(&at("b", 0, "2026-11-20T10:02:00Z"), HOUR), Duration::ZERO);
        assert_eq!(until.elapsed(&at("b", 0, "2026-11-19T10:00:00Z")), Duration::ZERO);
    }
}

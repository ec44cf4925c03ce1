//! How much of the table of first SYNs is used: as much as the rate of SYNs needs.

use std::time::Duration;

use tcpguard_common::challenge::first_syn::{MIN_SLABS, needed_slabs};

/// For how long a flood has to be weaker before the table shrinks.
const SHRINKS_AFTER: Duration = Duration::from_secs(600);

/// The part of the table in use.
pub(super) struct FirstSyns {
    slabs: u32,
    /// When this much was needed last.
    needed: Duration,
    /// The number of SYNs at the last tick, and its time.
    last: Option<(Duration, u64)>,
}

impl Default for FirstSyns {
    fn default() -> Self {
        Self { slabs: MIN_SLABS, needed: Duration::ZERO, last: None }
    }
}

impl FirstSyns {
    /// Adapts the part in use to the SYNs since the last tick; `syn` is the number of all SYNs. It grows at once.
    pub fn note(&mut self, syn: u64, at: Duration) {
        let Some((then, before)) = self.last.replace((at, syn)) else { return };
        let seconds = at.saturating_sub(then).as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        let needed = needed_slabs((syn.saturating_sub(before) as f64 / seconds) as u64);
        if needed >= self.slabs || at.saturating_sub(self.needed) >= SHRINKS_AFTER {
            (self.slabs, self.needed) = (needed, at);
        }
    }

    /// Returns the last element in use.
    pub const fn last_slab(&self) -> u64 {
        self.slabs as u64 - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_at_once_and_shrinks_slowly() {
        let mut first_syns = FirstSyns::default();
        let mut syn = 0;
        let mut at = Duration::ZERO;
        let mut tick = |per_second: u64| {
            at += Duration::from_millis(100);
            syn += per_second / 10;
            first_syns.note(syn, at);
            first_syns.last_slab() + 1
        };
        assert_eq!((tick(1000), tick(400_000)), (512, 512));
        assert_eq!(tick(900_000), 2048);
        assert_eq!((0..5990).map(|_| tick(400_000)).min(), Some(2048));
        assert_eq!((0..20).map(|_| tick(400_000)).last(), Some(512));
    }
}

//! Waking the daemon. It looks seldom in calm, and at once when more handshakes begin than complete.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// When the daemon is woken: part of the lease, renewed with each tick.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct WakeAt {
    /// The number of the tick, which may wrap around.
    pub tick: u32,
    /// How many more handshakes may begin than end on one CPU until the next tick. 0: as many as come.
    pub open: u32,
}

impl WakeAt {
    /// The daemon is never woken.
    pub const NEVER: Self = Self { tick: 0, open: 0 };
}

/// What one CPU has seen since the last tick. A handshake that begins on one CPU may end on another; CPUs that see only
/// ends do not make up for those that see only beginnings, so that the daemon is woken too early rather than too late.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Watch {
    /// The tick that `open` has been counted since.
    tick: u32,
    /// Handshakes that began, less those that ended.
    open: u32,
}

impl Watch {
    /// The value of [`Watch::open`] from the point at which the daemon was woken until the next tick: no number of
    /// handshakes on one CPU between two ticks leads from here to [`WakeAt::open`], which is smaller.
    const WOKEN: u32 = 1 << 31;

    /// Counts a handshake that begins; returns whether the daemon is to be woken, which happens once for each tick.
    #[inline(always)]
    pub const fn begin(&mut self, at: WakeAt) -> bool {
        if self.tick != at.tick {
            *self = Self { tick: at.tick, open: 0 };
        }
        self.open = self.open.wrapping_add(1);
        let wakes = self.open == at.open;
        if wakes {
            self.open = Self::WOKEN;
        }
        wakes
    }

    /// Counts a handshake that ends.
    #[inline(always)]
    pub const fn end(&mut self) {
        self.open = self.open.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: WakeAt = WakeAt { tick: 7, open: 3 };

    #[test]
    fn the_daemon_is_woken_once_for_each_tick() {
        let mut watch = Watch::default();
        let woken: Vec<bool> = (0..10).map(|_| watch.begin(AT)).collect();
        assert_eq!(woken.iter().position(|woken| *woken), Some(2));
        assert_eq!(woken.iter().filter(|woken| **woken).count(), 1);
        let next = WakeAt { tick: 8, ..AT };
        assert_eq!([0; 4].map(|_| watch.begin(next)), [false, false, true, false]);
    }

    #[test]
    fn handshakes_that_end_do_not_count() {
        let mut watch = Watch::default();
        for _ in 0..100 {
            assert!(!watch.begin(AT));
            watch.end();
        }
        watch.end();
        watch.end();
        assert_eq!([0; 3].map(|_| watch.begin(AT)), [false, false, true], "ends are not saved up");
    }

    #[test]
    fn ends_after_it_was_woken_wake_it_no_second_time() {
        let mut watch = Watch::default();
        assert!([0; 3].map(|_| watch.begin(AT))[2]);
        for _ in 0..10_000 {
            watch.end();
        }
        assert!((0..20_000).all(|_| !watch.begin(AT)));
    }

    #[test]
    fn without_a_lease_it_is_never_woken() {
        let mut watch = Watch::default();
        assert!((0..10_000).all(|_| !watch.begin(WakeAt::NEVER)));
    }
}

//! The number of a source's half-open handshakes: requested, and neither completed nor reset, within the
//! lifetime of a request in the kernel.
//!
//! Handshakes are counted by the period in which they began. A period's count expires with the period, so the
//! total cannot drift whatever was lost; and a count is only lowered while it is above zero. Two CPUs that lower a count
//! of one at the same time leave minus one, which counts as none.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{atomic, clock::WINDOW_PERIODS};

const SLOTS: usize = WINDOW_PERIODS as usize;
/// Minus one, as a wrapping amount for [`atomic::add_u32`].
const ONE_LESS: u32 = u32::MAX;

/// Half-open handshakes by the period in which they began ([`crate::clock::Clock::window_period`]).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct HalfOpenWindow {
    /// The last period in which a handshake began. `slots` holds the counts of this period and of those before
    /// it.
    latest: u32,
    slots: [u32; SLOTS],
}

impl HalfOpenWindow {
    /// Counts a half-open handshake that begins now, in `period`. Returns how many handshakes began in that
    /// period and are still half open.
    #[inline(always)]
    pub fn open(&mut self, period: u32) -> u32 {
        if period != self.latest {
            self.advance(period);
        }
        let slot = &mut self.slots[period as usize % SLOTS];
        let count = held(*slot);
        atomic::add_u32(slot, 1);
        count + 1
    }

    /// Returns whether no handshake has begun in `period` yet.
    #[inline(always)]
    pub const fn is_new_period(&self, period: u32) -> bool {
        period != self.latest
    }

    /// Returns the number of half-open handshakes that began in `now` or the period before it.
    pub fn count_recent(&self, now: u32) -> u64 {
        self.count_of(now, 2)
    }

    /// Removes a handshake that began in `period`; does nothing if none is left in that period.
    #[inline(always)]
    pub fn close(&mut self, period: u32) {
        if self.latest.wrapping_sub(period) < WINDOW_PERIODS {
            self.lower(period);
        }
    }

    /// Removes the newest handshake, in place of one whose beginning is not remembered.
    #[inline(always)]
    pub fn close_newest(&mut self, now: u32) {
        for age in 0..WINDOW_PERIODS {
            let period = self.latest.wrapping_sub(age);
            if now.wrapping_sub(period) < WINDOW_PERIODS && self.lower(period) {
                return;
            }
        }
    }

    /// Returns the number of half-open handshakes in period `now`.
    pub fn count(&self, now: u32) -> u64 {
        self.count_of(now, WINDOW_PERIODS)
    }

    /// Returns the number of half-open handshakes that began in the last `periods` periods, including `now`.
    #[inline(always)]
    fn count_of(&self, now: u32, periods: u32) -> u64 {
        let since_latest = now.wrapping_sub(self.latest);
        (0..WINDOW_PERIODS)
            .map(|age| {
                let slot = self.slots[self.latest.wrapping_sub(age) as usize % SLOTS];
                u64::from(held(slot)) & if_less(since_latest.wrapping_add(age), periods)
            })
            .sum()
    }

    /// Makes `period` the latest and clears the counts of the periods since the previous one. A CPU that does
    /// so concurrently may clear what was counted in between; that happens at most once per period.
    #[inline(always)]
    fn advance(&mut self, period: u32) {
        let elapsed = period.wrapping_sub(self.latest);
        for age in 0..WINDOW_PERIODS {
            if age < elapsed {
                self.slots[period.wrapping_sub(age) as usize % SLOTS] = 0;
            }
        }
        self.latest = period;
    }

    #[inline(always)]
    fn lower(&mut self, period: u32) -> bool {
        let slot = &mut self.slots[period as usize % SLOTS];
        let has_any = held(*slot) > 0;
        if has_any {
            atomic::add_u32(slot, ONE_LESS);
        }
        has_any
    }
}

/// Returns the number of handshakes that a slot stands for: none if it is below zero.
///
/// Without a branch, like [`if_less`]: the verifier follows both sides of each branch, for each of the slots.
#[inline(always)]
const fn held(slot: u32) -> u32 {
    slot & !(slot.cast_signed() >> 31).cast_unsigned()
}

/// Returns a mask of all bits if `a < b`, and of none otherwise.
#[inline(always)]
const fn if_less(a: u32, b: u32) -> u64 {
    ((a as i64 - b as i64) >> 63).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn opened_and_closed() {
        let mut window = HalfOpenWindow::default();
        assert_eq!(window.open(100), 1);
        assert_eq!(window.open(100), 2);
        assert_eq!(window.open(101), 1);
        assert_eq!(window.count(101), 3);
        window.close(100);
        assert_eq!(window.count(101), 2);
        window.close_newest(103);
        assert_eq!(window.count(103), 1);
    }

    #[test]
    fn what_is_not_closed_expires() {
        let mut window = HalfOpenWindow::default();
        for _ in 0..5 {
            window.open(100);
        }
        assert_eq!(window.count(107), 5);
        assert_eq!(window.count(108), 0);
        window.open(108);
        assert_eq!(window.count(108), 1);
    }

    #[test]
    fn an_expired_period_cannot_be_closed() {
        let mut window = HalfOpenWindow::default();
        window.open(108);
        window.close(100);
        assert_eq!(window.count(108), 1);
    }

    #[test]
    fn one_that_two_cpus_close_at_once_is_none() {
        let mut window = HalfOpenWindow::default();
        window.open(100);
        // Both saw one, and both lowered it.
        window.slots[100 % SLOTS] = window.slots[100 % SLOTS].wrapping_add(ONE_LESS).wrapping_add(ONE_LESS);
        assert_eq!((window.count(100), window.count_recent(100)), (0, 0));
        window.close(100);
        window.close_newest(100);
        assert_eq!(window.count(100), 0);
        for _ in 0..3 {
            window.open(100);
        }
        assert_eq!(window.count(100), 2);
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Open,
        Close(u32),
        CloseNewest,
        Wait(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Open),
            (0u32..12).prop_map(Step::Close),
            Just(Step::CloseNewest),
            (1u32..20).prop_map(Step::Wait)
        ]
    }

    proptest! {
        #[test]
        fn never_negative_and_never_drifting(start in any::<u32>(), steps in proptest::collection::vec(step(), 0..300)) {
            let mut window = HalfOpenWindow::default();
            let mut now = start;
            let mut opened_within = std::collections::VecDeque::new();
            for step in steps {
                match step {
                    Step::Open => { window.open(now); opened_within.push_back(now); }
                    Step::Close(age) => window.close(now.wrapping_sub(age)),
                    Step::CloseNewest => window.close_newest(now),
                    Step::Wait(periods) => now = now.wrapping_add(periods),
                }
                opened_within.retain(|&period| now.wrapping_sub(period) < WINDOW_PERIODS);
                prop_assert!(window.count(now) <= opened_within.len() as u64);
            }
            prop_assert_eq!(window.count(now.wrapping_add(WINDOW_PERIODS)), 0);
        }
    }

    #[test]
    fn recent_are_this_period_and_the_one_before() {
        let mut window = HalfOpenWindow::default();
        for (period, handshakes) in [(20, 1), (21, 2), (22, 4)] {
            for _ in 0..handshakes {
                window.open(period);
            }
        }
        assert_eq!([22, 23, 24].map(|now| window.count_recent(now)), [6, 4, 0]);
        assert!(window.is_new_period(23) && !window.is_new_period(22));
    }

    #[test]
    fn the_newest_is_removed_while_it_is_in_the_window() {
        let mut window = HalfOpenWindow::default();
        window.open(20);
        window.close_newest(20 + WINDOW_PERIODS);
        assert_eq!(window.slots.iter().sum::<u32>(), 1, "it has expired, and is left alone");
        window.close_newest(19 + WINDOW_PERIODS);
        assert_eq!(window.slots.iter().sum::<u32>(), 0);
    }
}

//! Admission to the source table: normally, every source gets an entry; under a flood of random sources, only
//! those that stand out in the sketch. Otherwise, each spoofed source would cost an insertion (twenty times as
//! much as the rest of the datapath) and evict a real source from the table.
//!
//! New entries are limited by an allowance, a token bucket that all CPUs share: it holds as many entries as a
//! burst of new sources may take at once, and refills within half a minute. A flood of random sources empties
//! it, and from then on replaces the table's entries only as fast as the bucket fills. Real clients do not
//! depend on it: a source that completes a handshake gets an entry without being charged for it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{atomic, tracking::sketch};

/// The number of epochs in which an empty allowance fills: about half a minute.
const EPOCHS_TO_FILL: u32 = 120;
/// The divisor of the whole allowance that yields how many entries each CPU may give in one epoch to sources
/// that stand out, once the allowance is used up.
const HEAVY_SHARE: u32 = 16;
/// A source stands out if its estimate reaches this value plus [`NOISE_FACTOR`] times the sketch's noise.
const MIN_HEAVY_ESTIMATE: u32 = 16;
/// The weight of the sketch's noise in the estimate at which a source stands out.
const NOISE_FACTOR: u32 = 3;

/// Returns the whole allowance for a table of `max_sources` entries: a burst may take a quarter of it, so that
/// a flood leaves most existing entries, and takes two minutes to replace all that are neither proven nor blocked.
pub const fn whole_allowance(max_sources: u32) -> u32 {
    max_sources / 4
}

/// The allowance of new entries, shared by all CPUs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Allowance {
    /// The epoch of the last fill; 0 before the first.
    epoch: u32,
    /// New entries that may be given to any source. To be read as an `i32`, because CPUs that take the last one
    /// concurrently make it negative.
    left: u32,
}

impl Allowance {
    /// Refills the allowance if an epoch has passed. CPUs that do so concurrently may fill it twice.
    #[inline(always)]
    pub const fn fill(&mut self, epoch: u32, most: u32) {
        let elapsed = epoch.wrapping_sub(self.epoch);
        if elapsed == 0 {
            return;
        }
        self.epoch = epoch;
        let left = if self.is_empty() { 0 } else { self.left };
        let filled = if elapsed < EPOCHS_TO_FILL { left + elapsed * (most / EPOCHS_TO_FILL + 1) } else { most };
        self.left = if filled < most { filled } else { most };
    }

    /// Returns whether the allowance is used up.
    #[inline(always)]
    pub const fn is_empty(&self) -> bool {
        self.left as i32 <= 0
    }

    #[inline(always)]
    fn take_one(&mut self) {
        atomic::add_u32(&mut self.left, u32::MAX);
    }
}

/// The load of one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Admission {
    /// The epoch of the last count.
    epoch: u32,
    /// Entries given in this epoch to sources that stand out, beyond the allowance.
    given_to_heavy: u32,
    /// SYNs counted in this epoch.
    load: u32,
    /// SYNs counted in the previous epoch.
    last_load: u32,
}

impl Admission {
    /// Counts one SYN, and starts a new epoch if one is due.
    #[inline(always)]
    pub const fn count(&mut self, epoch: u32) {
        if self.epoch != epoch {
            self.last_load = if epoch.wrapping_sub(self.epoch) == 1 { self.load } else { 0 };
            self.epoch = epoch;
            self.given_to_heavy = 0;
            self.load = 0;
        }
        self.load = self.load.wrapping_add(1);
    }

    /// Returns whether a source with this estimate is given an entry. `most` is the whole allowance. While SYNs
    /// are challenged, only sources that stand out are: a real client gets an entry when it completes its
    /// handshake.
    #[inline(always)]
    pub const fn is_open_to(&self, allowance: &Allowance, estimate: u32, most: u32, is_challenged: bool) -> bool {
        !(is_challenged || allowance.is_empty())
            || self.stands_out(estimate) && self.given_to_heavy <= most / HEAVY_SHARE
    }

    /// Records that an entry was given, or sought in vain: a flood of sources for which there is no place must not cost a search
    /// each.
    #[inline(always)]
    pub fn give(&mut self, allowance: &mut Allowance, is_challenged: bool) {
        if is_challenged || allowance.is_empty() {
            self.given_to_heavy += 1;
        } else {
            allowance.take_one();
        }
    }

    /// Returns whether a source with this estimate sends more than chance explains.
    #[inline(always)]
    pub const fn stands_out(&self, estimate: u32) -> bool {
        let load = if self.load > self.last_load { self.load } else { self.last_load };
        // The count that a cell reaches by chance: its share of the load of this epoch and, halved with every
        // epoch, of those before.
        let noise = 2 * load / sketch::LOAD_PER_COUNT;
        estimate >= MIN_HEAVY_ESTIMATE + NOISE_FACTOR * noise
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    #[test]
    fn what_stands_out_depends_on_the_greater_load() {
        let load = 10 * sketch::LOAD_PER_COUNT;
        // By chance, a cell reaches twice its share of the load.
        let least = MIN_HEAVY_ESTIMATE + NOISE_FACTOR * 20;
        for (load, last_load) in [(load, 0), (0, load), (load, load), (load, load / 2)] {
            let admission = Admission { load, last_load, ..Admission::default() };
            assert!(admission.stands_out(least) && !admission.stands_out(least - 1), "{load} {last_load}");
        }
        assert!(Admission::default().stands_out(MIN_HEAVY_ESTIMATE));
        assert!(!Admission::default().stands_out(MIN_HEAVY_ESTIMATE - 1));
    }

    use super::*;
    use crate::{
        hash,
        tracking::sketch::{LINES, LINES_PER_SLAB, Line, position},
    };

    const MAX_ALLOWANCE: u32 = 65_536;
    const START: u32 = 100_000;

    #[derive(Default)]
    struct Door {
        allowance: Allowance,
        admission: Admission,
    }

    impl Door {
        fn lets_in(&mut self, epoch: u32, estimate: u32) -> bool {
            self.allowance.fill(epoch, MAX_ALLOWANCE);
            self.admission.count(epoch);
            let is_open = self.admission.is_open_to(&self.allowance, estimate, MAX_ALLOWANCE, false);
            if is_open {
                self.admission.give(&mut self.allowance, false);
            }
            is_open
        }

        fn new_sources(&mut self, epoch: u32, sources: u32) -> u32 {
            (0..sources).map(|_| u32::from(self.lets_in(epoch, 1))).sum()
        }

        /// Sends `rate` new sources per epoch for `epochs`; returns how many of them get an entry.
        fn flood(&mut self, rate: u32, epochs: u32) -> u32 {
            (START..START + epochs).map(|epoch| self.new_sources(epoch, rate)).sum()
        }
    }

    #[test]
    fn in_calm_everybody_gets_an_entry() {
        assert_eq!(Door::default().new_sources(START, 65_000), 65_000, "a burst");
        let mut door = Door::default();
        for epoch in START..START + 3000 {
            assert_eq!(door.new_sources(epoch, 500), 500, "two thousand new clients per second");
        }
    }

    #[test]
    fn a_flood_turns_the_table_over_slowly_whatever_its_rate() {
        for rate in [5_000, 25_000, 250_000] {
            // Within half a minute, a flood may take the allowance twice.
            let given = Door::default().flood(rate, EPOCHS_TO_FILL);
            assert!(given <= 2 * MAX_ALLOWANCE + 1000, "{given} of {rate} an epoch");
        }
    }

    #[test]
    fn after_a_flood_new_clients_get_in_at_once() {
        let mut door = Door::default();
        door.flood(250_000, 40);
        assert!(door.allowance.is_empty());
        for epoch in START + 40..START + 400 {
            assert_eq!(door.new_sources(epoch, 300), 300);
        }
        assert_eq!(door.new_sources(START + 400 + EPOCHS_TO_FILL, 65_000), 65_000, "and a burst after a while");
    }

    #[test]
    fn a_source_that_stands_out_gets_in_during_a_flood() {
        let mut door = Door::default();
        door.flood(100_000, 10);
        assert!(!door.lets_in(START + 9, 8));
        assert!(door.lets_in(START + 9, 100));
    }

    #[test]
    fn a_flood_stands_out_in_no_epoch() {
        let mut door = Door::default();
        let mut lines = vec![Line::default(); LINES];
        let mut given = 0;
        for (epoch, sources) in [(1, 1_000_000u32), (2, 2_000_000), (9, 2_000_000), (10, 500_000)] {
            for n in 0..sources {
                let hash = hash::address(epoch.into(), Ipv4Addr::from(n).into());
                let (slab, line) = position(hash);
                let estimate = lines[slab as usize * LINES_PER_SLAB + line].count(hash, START + epoch);
                door.allowance.fill(START + epoch, MAX_ALLOWANCE);
                let was_empty = door.allowance.is_empty();
                given += u32::from(door.lets_in(START + epoch, estimate) && was_empty);
            }
        }
        assert!(given < 100, "{given} random sources taken for heavy ones");
    }

    #[test]
    fn even_heavy_sources_are_bounded() {
        let mut door = Door::default();
        let given = (0..2 * MAX_ALLOWANCE).filter(|_| door.lets_in(START, u32::MAX)).count();
        assert_eq!(given as u32, MAX_ALLOWANCE + MAX_ALLOWANCE / HEAVY_SHARE + 1);
    }

    #[test]
    fn two_cpus_that_take_the_last_one_leave_none() {
        let mut allowance = Allowance { epoch: START, left: 1 };
        allowance.take_one();
        allowance.take_one();
        assert!(allowance.is_empty());
        allowance.fill(START + 1, MAX_ALLOWANCE);
        assert_eq!(allowance.left, MAX_ALLOWANCE / EPOCHS_TO_FILL + 1);
    }

    #[test]
    fn a_burst_may_take_a_quarter_which_is_there_again_after_120_epochs() {
        assert_eq!(whole_allowance(4000), 1000);
        let mut allowance = Allowance::default();
        allowance.fill(7, 1200);
        assert_eq!(allowance.left, 77, "seven epochs since the first");
        allowance.fill(7, 1200);
        assert_eq!(allowance.left, 77, "in the same epoch");
        allowance.fill(8, 1200);
        assert_eq!(allowance.left, 88, "a 120th more, rounded up");
        allowance.fill(8 + EPOCHS_TO_FILL, 1200);
        assert_eq!(allowance.left, 1200);
        allowance.left = u32::MAX;
        assert!(allowance.is_empty());
        allowance.fill(9 + EPOCHS_TO_FILL, 1200);
        assert_eq!(allowance.left, 11, "what two CPUs took too many is forgotten");
    }

    #[test]
    fn load_is_that_of_this_epoch_or_the_last() {
        let mut load = Admission::default();
        for _ in 0..5 {
            load.count(3);
        }
        load.given_to_heavy = 2;
        load.count(4);
        assert_eq!((load.load, load.last_load, load.given_to_heavy), (1, 5, 0));
        load.count(6);
        assert_eq!((load.load, load.last_load), (1, 0), "an epoch without SYNs was between");
    }
}

//! Who gets an entry in the source table: in calm, everybody; under a flood of random sources only
//! those that stand out in the sketch. Otherwise each spoofed source would cost an insertion
//! (twenty times what the rest of the datapath does) and push a real one out of the table.
//!
//! Each CPU has an allowance of new entries per epoch. Using it up is the sign of a flood: the
//! allowance then shrinks to an eighth, down to [`LEAST_ALLOWANCE`], and doubles again with each
//! epoch that does not use it up.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::sketch;

/// The allowance never shrinks below this.
pub const LEAST_ALLOWANCE: u32 = 64;
/// A source stands out whose estimate is this far above the sketch's noise.
const LEAST_HEAVY_ESTIMATE: u32 = 16;
/// And this many times the noise.
const NOISE_FACTOR: u32 = 3;

/// One CPU's allowance.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Admission {
    epoch: u32,
    /// New entries allowed in this epoch.
    allowance: u32,
    /// New entries given in this epoch, to anybody.
    given: u32,
    /// New entries given in this epoch to sources that stand out, once the allowance was used up.
    given_to_heavy: u32,
    /// SYNs counted in this epoch.
    load: u32,
    /// SYNs counted in the epoch before.
    last_load: u32,
}

impl Admission {
    /// Notes one SYN, and starts a new epoch where it is due. `most` is the allowance in calm.
    #[inline(always)]
    pub fn count(&mut self, epoch: u32, most: u32) {
        if self.epoch != epoch {
            self.start_epoch(epoch, most);
        }
        self.load = self.load.wrapping_add(1);
    }

    /// Whether it is worth looking a source up that nothing is known of: it would get an entry.
    #[inline(always)]
    pub const fn is_open_to(&self, estimate: u32, most: u32) -> bool {
        self.given < self.allowance || self.stands_out(estimate) && self.given_to_heavy < most
    }

    /// Notes that an entry was given.
    #[inline(always)]
    pub const fn give(&mut self) {
        if self.given < self.allowance {
            self.given += 1;
        } else {
            self.given_to_heavy += 1;
        }
    }

    /// Whether the allowance of this epoch is used up.
    #[inline(always)]
    pub const fn is_closed(&self) -> bool {
        self.given >= self.allowance
    }

    #[inline(always)]
    const fn stands_out(&self, estimate: u32) -> bool {
        let load = if self.load > self.last_load { self.load } else { self.last_load };
        // What a cell holds by chance: its share of this epoch's load and, halved and halved again,
        // of those before.
        let noise = 2 * load / sketch::LOAD_PER_COUNT;
        estimate >= LEAST_HEAVY_ESTIMATE + NOISE_FACTOR * noise
    }

    #[inline(always)]
    fn start_epoch(&mut self, epoch: u32, most: u32) {
        self.allowance = self.next_allowance(most);
        let follows = epoch.wrapping_sub(self.epoch) == 1;
        self.last_load = if follows { self.load } else { 0 };
        self.epoch = epoch;
        self.given = 0;
        self.given_to_heavy = 0;
        self.load = 0;
    }

    #[inline(always)]
    fn next_allowance(&self, most: u32) -> u32 {
        let never_used = self.epoch == 0 && self.allowance == 0;
        if never_used {
            most
        } else if self.is_closed() {
            (self.allowance / 8).max(LEAST_ALLOWANCE).min(most)
        } else {
            self.allowance.saturating_mul(2).min(most)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::{
        hash,
        sketch::{LINES, LINES_PER_SLAB, Line, position},
    };

    const MOST: u32 = 32_768;

    fn new_sources(admission: &mut Admission, epoch: u32, sources: u32) -> u32 {
        let mut given = 0;
        for _ in 0..sources {
            admission.count(epoch, MOST);
            if admission.is_open_to(1, MOST) {
                admission.give();
                given += 1;
            }
        }
        given
    }

    #[test]
    fn in_calm_everybody_gets_an_entry() {
        let mut admission = Admission::default();
        for epoch in 1..100 {
            assert_eq!(new_sources(&mut admission, epoch, 20_000), 20_000);
        }
    }

    #[test]
    fn a_flood_of_new_sources_closes_the_table() {
        let mut admission = Admission::default();
        assert_eq!(new_sources(&mut admission, 1, 250_000), MOST);
        let later: u32 = (2..42).map(|epoch| new_sources(&mut admission, epoch, 250_000)).sum();
        assert!(later < 8_000, "{later} entries in ten seconds of flood");
    }

    #[test]
    fn it_opens_again_after_the_flood() {
        let mut admission = Admission::default();
        for epoch in 1..40 {
            new_sources(&mut admission, epoch, 250_000);
        }
        for epoch in 40..52 {
            new_sources(&mut admission, epoch, 10);
        }
        assert_eq!(new_sources(&mut admission, 52, 20_000), 20_000);
    }

    #[test]
    fn a_source_that_stands_out_gets_in_during_a_flood() {
        let mut admission = Admission::default();
        for epoch in 1..10 {
            new_sources(&mut admission, epoch, 250_000);
        }
        assert!(admission.is_closed());
        assert!(!admission.is_open_to(8, MOST));
        assert!(admission.is_open_to(100, MOST));
    }

    #[test]
    fn a_flood_stands_out_in_no_epoch() {
        let mut admission = Admission::default();
        let mut lines = vec![Line::default(); LINES];
        let mut given = 0;
        for (epoch, sources) in [(1, 1_000_000u32), (2, 2_000_000), (9, 2_000_000), (10, 500_000)] {
            for n in 0..sources {
                let hash = hash::address(epoch.into(), Ipv4Addr::from(n).into());
                let (slab, line) = position(hash);
                admission.count(epoch, MOST);
                let estimate = lines[slab as usize * LINES_PER_SLAB + line].count(hash, epoch);
                if admission.is_open_to(estimate, MOST) {
                    admission.give();
                    given += u32::from(admission.is_closed());
                }
            }
        }
        assert!(given < 100, "{given} random sources taken for heavy ones");
    }

    #[test]
    fn even_heavy_sources_are_bounded() {
        let mut admission = Admission::default();
        admission.count(1, MOST);
        let mut given = 0;
        while admission.is_open_to(u32::MAX, MOST) {
            admission.give();
            given += 1;
        }
        assert_eq!(given, 2 * MOST);
    }
}

//! Who gets an entry in the source table: in calm, everybody; under a flood of random sources only
//! those that stand out in the sketch. Otherwise each spoofed source would cost an insertion
//! (twenty times what the rest of the datapath does) and push a real one out of the table.
//!
//! Each CPU has an allowance of new entries, a token bucket: it holds as many as a burst of new sources
//! may take at once, and is filled again within half a minute. A flood of random sources empties it,
//! and from then on turns the table over only as slowly as the bucket fills. Real clients do not
//! depend on it: who completes a handshake gets an entry without being charged for.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::sketch;

/// Epochs in which an empty allowance is filled: about 30 s.
const EPOCHS_TO_FILL: u32 = 120;
/// The part of a whole allowance that sources which stand out may take in one epoch, once it is used up.
const HEAVY_SHARE: u32 = 8;
/// A source stands out whose estimate is this far above the sketch's noise.
const LEAST_HEAVY_ESTIMATE: u32 = 16;
/// And this many times the noise.
const NOISE_FACTOR: u32 = 3;

/// One CPU's allowance.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Admission {
    /// The epoch of the last count; 0 before the first.
    epoch: u32,
    /// New entries that may be given to anybody.
    allowance: u32,
    /// New entries given in this epoch to sources that stand out, once the allowance was used up.
    given_to_heavy: u32,
    /// SYNs counted in this epoch.
    load: u32,
    /// SYNs counted in the epoch before.
    last_load: u32,
}

impl Admission {
    /// Notes one SYN, and starts a new epoch where it is due. `most` is the whole allowance.
    #[inline(always)]
    pub const fn count(&mut self, epoch: u32, most: u32) {
        if self.epoch != epoch {
            self.start_epoch(epoch, most);
        }
        self.load = self.load.wrapping_add(1);
    }

    /// Whether a source of this estimate would be given an entry.
    #[inline(always)]
    pub const fn is_open_to(&self, estimate: u32, most: u32) -> bool {
        self.allowance > 0 || self.stands_out(estimate) && self.given_to_heavy <= most / HEAVY_SHARE
    }

    /// Notes that an entry was given.
    #[inline(always)]
    pub const fn give(&mut self) {
        if self.allowance > 0 {
            self.allowance -= 1;
        } else {
            self.given_to_heavy += 1;
        }
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
    const fn start_epoch(&mut self, epoch: u32, most: u32) {
        let elapsed = epoch.wrapping_sub(self.epoch);
        let filled = if elapsed < EPOCHS_TO_FILL {
            self.allowance.saturating_add(elapsed * (most / EPOCHS_TO_FILL + 1))
        } else {
            most
        };
        self.allowance = if filled < most { filled } else { most };
        self.last_load = if elapsed == 1 { self.load } else { 0 };
        self.epoch = epoch;
        self.given_to_heavy = 0;
        self.load = 0;
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
    const START: u32 = 100_000;

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

    /// A flood of `rate` new sources an epoch for `epochs`; how many of them get an entry.
    fn flood(admission: &mut Admission, rate: u32, epochs: u32) -> u32 {
        (START..START + epochs).map(|epoch| new_sources(admission, epoch, rate)).sum()
    }

    #[test]
    fn in_calm_everybody_gets_an_entry() {
        let mut admission = Admission::default();
        assert_eq!(new_sources(&mut admission, START, 30_000), 30_000, "a burst");
        let mut admission = Admission::default();
        for epoch in START..START + 1000 {
            assert_eq!(new_sources(&mut admission, epoch, 270), 270, "a thousand new clients a second");
        }
    }

    #[test]
    fn a_flood_turns_the_table_over_slowly_whatever_its_rate() {
        for rate in [2_000, 25_000, 250_000] {
            let mut admission = Admission::default();
            // A minute of it may take the allowance, and the allowance filled twice.
            let given = flood(&mut admission, rate, 240);
            assert!(given <= 3 * MOST + 1000, "{given} of {rate} an epoch");
        }
    }

    #[test]
    fn after_a_flood_new_clients_get_in_at_once() {
        let mut admission = Admission::default();
        flood(&mut admission, 250_000, 40);
        for epoch in START + 40..START + 400 {
            assert_eq!(new_sources(&mut admission, epoch, 200), 200);
        }
        assert_eq!(
            new_sources(&mut admission, START + 400 + EPOCHS_TO_FILL, 30_000),
            30_000,
            "and a burst after a while"
        );
    }

    #[test]
    fn a_source_that_stands_out_gets_in_during_a_flood() {
        let mut admission = Admission::default();
        flood(&mut admission, 100_000, 10);
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
                admission.count(START + epoch, MOST);
                let estimate = lines[slab as usize * LINES_PER_SLAB + line].count(hash, START + epoch);
                if admission.is_open_to(estimate, MOST) {
                    given += u32::from(admission.allowance == 0);
                    admission.give();
                }
            }
        }
        assert!(given < 100, "{given} random sources taken for heavy ones");
    }

    #[test]
    fn even_heavy_sources_are_bounded() {
        let mut admission = Admission::default();
        admission.count(START, MOST);
        let mut given = 0;
        while admission.is_open_to(u32::MAX, MOST) {
            admission.give();
            given += 1;
        }
        assert_eq!(given, MOST + MOST / HEAVY_SHARE + 1);
    }
}

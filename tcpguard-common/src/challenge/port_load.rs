//! The number of SYNs from unproven sources per port in the current slot, so that the datapath can start to
//! challenge before the daemon's next tick.
//!
//! Each CPU counts separately and adds its count to a shared sum in portions: a word written by every CPU with
//! every SYN would cost more than the rest of the SYN's processing.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::atomic;

/// A CPU adds to the shared sum after this many SYNs.
pub const PORTION: u32 = 32;

/// How many SYNs to one port pass in a slot because they are retransmits, where clients are to answer with a reset: 1,000 in a
/// second. They are the clients whose firewalls suppress resets.
pub const REPEATS_PER_SLOT: u32 = 125;

/// The load of one port, shared by all CPUs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PortLoad {
    /// The slot (upper half; [`crate::clock::Clock::slot`]) and the number of SYNs received in it (lower
    /// half).
    sum: u64,
    /// The datapath challenges on its own until this time, in jiffies.
    pub challenged_until: u64,
    /// The slot, and the number of retransmits that passed in it; see [`REPEATS_PER_SLOT`].
    repeats: u64,
}

/// The load of one port, as counted by one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CpuLoad {
    slot: u32,
    count: u32,
}

impl CpuLoad {
    /// No SYNs in any slot.
    pub const NONE: Self = Self { slot: 0, count: 0 };

    /// Counts one SYN. Returns true if a portion is complete and has to be added to the shared sum.
    #[inline(always)]
    pub const fn count(&mut self, slot: u32) -> bool {
        if self.slot != slot {
            *self = Self { slot, count: 0 };
        }
        self.count += 1;
        self.count.is_multiple_of(PORTION)
    }
}

impl PortLoad {
    /// Adds a portion and returns the number of SYNs in this slot. CPUs that begin a slot concurrently may lose
    /// a portion.
    #[inline(always)]
    pub fn add(&mut self, slot: u32) -> u32 {
        if (self.sum >> 32) as u32 != slot {
            self.sum = (slot as u64) << 32;
        }
        atomic::add(&mut self.sum, PORTION as u64);
        self.sum as u32
    }

    /// Returns whether one more retransmit passes in this slot, and counts it. CPUs that do so concurrently may let a few
    /// more pass.
    #[inline(always)]
    pub fn takes_repeat(&mut self, slot: u32) -> bool {
        if (self.repeats >> 32) as u32 != slot {
            self.repeats = (slot as u64) << 32;
        }
        if self.repeats as u32 >= REPEATS_PER_SLOT {
            return false;
        }
        atomic::add(&mut self.repeats, 1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portions_are_added_up_moment_by_moment() {
        let (mut cpu, mut load) = (CpuLoad::default(), PortLoad::default());
        let mut sums = Vec::new();
        for _ in 0..100 {
            if cpu.count(7) {
                sums.push(load.add(7));
            }
        }
        assert_eq!(sums, [32, 64, 96]);
        assert!(!cpu.count(8));
        assert_eq!(load.add(8), 32);
    }

    #[test]
    fn retransmits_are_limited_in_each_slot() {
        let mut load = PortLoad::default();
        for slot in [7, 8] {
            for _ in 0..REPEATS_PER_SLOT {
                assert!(load.takes_repeat(slot));
            }
            assert!(!load.takes_repeat(slot) && !load.takes_repeat(slot));
        }
    }

    #[test]
    fn a_portion_is_of_one_slot() {
        let mut cpu = CpuLoad::default();
        for _ in 1..PORTION {
            assert!(!cpu.count(7));
        }
        for _ in 1..PORTION {
            assert!(!cpu.count(8), "those of slot 7 do not count");
        }
        assert!(cpu.count(8));
    }
}

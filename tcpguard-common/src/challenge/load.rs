//! How many SYNs of unproven sources come to a port at this moment, so that the datapath can start to
//! challenge before the daemon's next look.
//!
//! Each CPU counts for itself and adds what it has to the sum of all now and then: a word that every CPU
//! writes with every SYN would cost more than the SYN.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::atomic;

/// A CPU adds to the sum of all after so many.
pub const PORTION: u32 = 32;

/// What all CPUs share, for one port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PortLoad {
    /// The moment (upper half; [`crate::clock::Clock::moment`]), and how many came in it (lower half).
    sum: u64,
    /// Until when, in jiffies, the datapath challenges by itself.
    pub challenged_until: u64,
}

/// What one CPU counts, for one port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CpuLoad {
    moment: u32,
    count: u32,
}

impl CpuLoad {
    /// Counts one; true where a portion is full and has to be added to the sum.
    #[inline(always)]
    pub const fn count(&mut self, moment: u32) -> bool {
        if self.moment != moment {
            *self = Self { moment, count: 0 };
        }
        self.count += 1;
        self.count.is_multiple_of(PORTION)
    }
}

impl PortLoad {
    /// Adds a portion, and tells how many have come in this moment. CPUs that begin a moment at the same time
    /// may lose a portion.
    #[inline(always)]
    pub fn add(&mut self, moment: u32) -> u32 {
        if (self.sum >> 32) as u32 != moment {
            self.sum = (moment as u64) << 32;
        }
        atomic::add(&mut self.sum, PORTION as u64);
        self.sum as u32
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
}

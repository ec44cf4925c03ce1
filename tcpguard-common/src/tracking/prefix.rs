//! The accounting of networks: the /24 or /64 (by default) that sources belong to.
//!
//! Networks are kept in a fixed array per CPU, one cell per hash, modelled on the heavy part of the Elastic
//! Sketch (Yang et al., SIGCOMM 2018): a network keeps its cell as long as it is busier than all others that
//! hash to the cell together, and its standing halves with each epoch. A busy network therefore keeps its cell
//! however many others appear, at the cost of one memory access per SYN.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::address::Address;

/// Cells in one map element (32 KiB, the maximum for an element of a per-CPU map).
pub const CELLS_PER_SLAB: usize = 512;
/// The number of map elements.
pub const SLABS: usize = 4;

/// A network loses its cell after this many times as many SYNs of other networks (λ in the paper). A factor of
/// one would be fair; a greater one keeps cells from changing hands constantly under a flood, which is
/// expensive.
const CLAIMS_PER_STANDING: u32 = 8;

/// The maximum standing: high enough to protect a cell for a while, low enough to lose it within seconds of
/// silence.
const MAX_STANDING: u32 = 1 << 20;

/// The cells of one CPU in one map element.
pub type Slab = [PrefixCell; CELLS_PER_SLAB];

/// The account of one network on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PrefixCell {
    /// The network's first address.
    pub network: Address,
    /// SYNs since the network got the cell.
    pub syn: u64,
    /// Handshakes completed or reset since the network got the cell.
    pub ended: u64,
    /// The time at which the network got the cell, in jiffies.
    pub first_seen: u64,
    /// The time of the last count, in jiffies.
    pub last_seen: u64,
    epoch: u32,
    standing: u32,
    claims: u32,
    reserved: u32,
}

/// Returns the element and the cell within it for a network with this hash.
#[inline(always)]
pub const fn position(hash: u64) -> (u32, usize) {
    let cell = (hash >> 20) as usize & (CELLS_PER_SLAB * SLABS - 1);
    ((cell / CELLS_PER_SLAB) as u32, cell % CELLS_PER_SLAB)
}

impl PrefixCell {
    /// Counts a SYN from `network`, unless another network keeps the cell.
    #[inline(always)]
    pub fn count_syn(&mut self, network: Address, jiffies: u64, epoch: u32) {
        if self.is_won_by(network, jiffies, epoch) {
            self.syn += 1;
        }
    }

    /// Counts the end of a handshake from `network`, unless another network keeps the cell. The end may be
    /// processed on another CPU than the beginning, so it counts as a claim to that CPU's cell as well.
    #[inline(always)]
    pub fn count_end(&mut self, network: Address, jiffies: u64, epoch: u32) {
        if self.is_won_by(network, jiffies, epoch) {
            self.ended += 1;
        }
    }

    #[inline(always)]
    fn is_won_by(&mut self, network: Address, jiffies: u64, epoch: u32) -> bool {
        let elapsed = epoch.wrapping_sub(self.epoch);
        if elapsed != 0 {
            let halvings = if elapsed < 31 { elapsed } else { 31 };
            self.standing >>= halvings;
            self.claims >>= halvings;
            self.epoch = epoch;
        }
        if self.network == network {
            self.standing = (self.standing + 1).min(MAX_STANDING);
            self.last_seen = jiffies;
            return true;
        }
        self.claims = self.claims.saturating_add(1);
        let lost = self.claims > CLAIMS_PER_STANDING * self.standing;
        if lost {
            *self = Self { network, first_seen: jiffies, last_seen: jiffies, epoch, standing: 1, ..Self::default() };
        }
        lost
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn network(n: u32) -> Address {
        Ipv4Addr::from(0xc612_0000 + (n << 8)).into()
    }

    #[test]
    fn every_cell_is_used_alike() {
        let cells = CELLS_PER_SLAB * SLABS;
        let mut uses = vec![0; cells];
        for number in 0..cells as u64 * 2 {
            let (slab, cell) = position(number << 20 | 0xf_ffff);
            uses[slab as usize * CELLS_PER_SLAB + cell] += 1;
        }
        assert!(uses.iter().all(|uses| *uses == 2));
        assert_eq!(position((CELLS_PER_SLAB as u64 + 3) << 20), (1, 3));
    }

    #[test]
    fn a_cell_is_lost_after_eight_times_as_many_others() {
        let mut cell = PrefixCell::default();
        (0..10).for_each(|_| cell.count_syn(network(1), 5, 1));
        (0..80).for_each(|_| cell.count_syn(network(2), 6, 1));
        assert_eq!(cell.network, network(1));
        cell.count_syn(network(2), 7, 1);
        assert_eq!((cell.network, cell.first_seen, cell.last_seen, cell.syn), (network(2), 7, 7, 1));
    }

    #[test]
    fn standing_and_claims_halve_with_each_epoch() {
        let mut cell = PrefixCell::default();
        (0..12).for_each(|_| cell.count_syn(network(1), 5, 1));
        (0..40).for_each(|_| cell.count_syn(network(2), 6, 1));
        // A standing of 3 and 10 claims are left, and the 15th claim would exceed 24.
        (0..14).for_each(|_| cell.count_syn(network(2), 7, 3));
        assert_eq!(cell.network, network(1));
        cell.count_syn(network(2), 8, 3);
        assert_eq!(cell.network, network(2));
    }

    #[test]
    fn whoever_was_silent_for_as_long_as_the_clock_counts_has_no_standing() {
        for epoch in [31, 32, 1000, u32::MAX] {
            let mut cell = PrefixCell::default();
            (0..5).for_each(|_| cell.count_syn(network(1), 5, 0));
            cell.count_syn(network(2), 6, epoch);
            assert_eq!(cell.network, network(2), "epoch {epoch}");
        }
    }

    #[test]
    fn a_free_cell_is_taken_and_counted_in() {
        let mut cell = PrefixCell::default();
        for _ in 0..10 {
            cell.count_syn(network(1), 5, 1);
        }
        cell.count_end(network(1), 5, 1);
        cell.count_end(network(2), 5, 1);
        assert_eq!((cell.network, cell.syn, cell.ended), (network(1), 10, 1));
    }

    #[test]
    fn an_end_on_another_cpu_is_counted_there() {
        let mut cell = PrefixCell::default();
        cell.count_end(network(1), 5, 1);
        assert_eq!((cell.network, cell.syn, cell.ended), (network(1), 0, 1));
    }

    #[test]
    fn a_busy_network_keeps_its_cell() {
        let mut cell = PrefixCell::default();
        for round in 0..1000 {
            cell.count_syn(network(1), round, 1);
            cell.count_syn(network(1), round, 1);
            for other in 0..10 {
                cell.count_syn(network(2 + 10 * round as u32 + other), round, 1);
            }
        }
        assert_eq!((cell.network, cell.syn), (network(1), 2000));
    }

    #[test]
    fn a_silent_one_loses_it() {
        let mut cell = PrefixCell::default();
        for _ in 0..1000 {
            cell.count_syn(network(1), 5, 1);
        }
        cell.count_syn(network(2), 900, 20);
        assert_eq!((cell.network, cell.syn, cell.first_seen), (network(2), 1, 900));
    }

    #[test]
    fn a_cell_is_one_cache_line() {
        assert_eq!(size_of::<PrefixCell>(), 64);
    }
}

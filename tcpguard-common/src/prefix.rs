//! What is remembered of one network: the /24 or /64 (by default) that sources lie in.
//!
//! Networks are kept in a fixed array per CPU, one cell per hash, after the heavy part of the Elastic
//! Sketch (Yang et al., SIGCOMM 2018): whoever holds a cell keeps it as long as it is busier than all
//! others that want it together, and standing halves with each epoch. So a busy network stays however
//! many others pass by, at one memory access per SYN.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::address::Address;

/// Cells in one map element (32 KiB, the most that a per-CPU element may have).
pub const CELLS_PER_SLAB: usize = 512;
/// Map elements.
pub const SLABS: usize = 4;

/// A holder loses its cell to that many times as many SYNs of others (λ in the paper). One would do
/// for fairness; more keeps cells from changing hands all the time under a flood, which costs.
const CLAIMS_PER_STANDING: u32 = 8;

/// Enough to be safe from others for a while, and to be lost within seconds of silence.
const MOST_STANDING: u32 = 1 << 20;

/// One CPU's cells as they stand in a map element.
pub type Slab = [PrefixCell; CELLS_PER_SLAB];

/// The account of one network on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PrefixCell {
    /// The network's first address.
    pub network: Address,
    /// SYNs since it got the cell.
    pub syn: u64,
    /// Handshakes completed or reset since then.
    pub ended: u64,
    /// When it got the cell, in jiffies.
    pub first_seen: u64,
    /// When it last counted, in jiffies.
    pub last_seen: u64,
    epoch: u32,
    standing: u32,
    claims: u32,
    reserved: u32,
}

/// The element and the cell within it for a network of this hash.
#[inline(always)]
pub const fn position(hash: u64) -> (u32, usize) {
    let cell = (hash >> 20) as usize & (CELLS_PER_SLAB * SLABS - 1);
    ((cell / CELLS_PER_SLAB) as u32, cell % CELLS_PER_SLAB)
}

impl PrefixCell {
    /// Counts a SYN from `network`.
    #[inline(always)]
    pub fn count_syn(&mut self, network: Address, jiffies: u64, epoch: u32) {
        if self.is_won_by(network, jiffies, epoch) {
            self.syn += 1;
        }
    }

    /// Counts the end of a handshake from `network`. It may happen on another CPU than the beginning, so
    /// it gives a claim to that CPU's cell as well.
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
            self.standing = (self.standing + 1).min(MOST_STANDING);
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

//! The accounts of prefixes.

use std::collections::HashMap;

use tcpguard_common::{
    address::Address,
    tracking::prefix::{SLABS, Slab},
};

use super::{super::DatapathError, ByCpu};

/// Reads the accounts of prefixes.
pub struct PrefixMap(ByCpu<Slab>);

/// The account of one prefix, summed over all CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixAccount {
    /// SYNs since the prefix got its cell.
    pub syn: u64,
    /// Handshakes completed or reset since the prefix got its cell.
    pub ended: u64,
    /// The time of the last count, in jiffies.
    pub last_seen: u64,
}

impl PrefixMap {
    pub(super) const fn new(map: ByCpu<Slab>) -> Self {
        Self(map)
    }

    /// Adds one slab of cells (0 to [`SLABS`] - 1) to `accounts`.
    ///
    /// # Errors
    /// Returns an error if the map cannot be read.
    pub fn read(&self, slab: usize, accounts: &mut HashMap<Address, PrefixAccount>) -> Result<(), DatapathError> {
        let index = u32::try_from(slab % SLABS).unwrap_or(0);
        let cpus = self.0.read(index)?;
        for cell in cpus.iter().flatten().filter(|cell| cell.syn + cell.ended > 0) {
            let account = accounts.entry(cell.network).or_default();
            account.syn += cell.syn;
            account.ended += cell.ended;
            account.last_seen = account.last_seen.max(cell.last_seen);
        }
        Ok(())
    }
}

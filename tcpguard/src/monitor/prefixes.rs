//! The networks that send most.

use std::collections::HashMap;

use tcpguard_common::{address::Address, prefix::SLABS};

use crate::datapath::{
    DatapathError,
    maps::{PrefixAccount, PrefixMap},
};

const TOP: usize = 20;

/// One network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixSnapshot {
    /// Its first address.
    pub network: Address,
    /// Its account.
    pub account: PrefixAccount,
}

/// Reads the accounts a slab at a time.
pub struct PrefixReader {
    map: PrefixMap,
    next: usize,
    accounts: HashMap<Address, PrefixAccount>,
    top: Vec<PrefixSnapshot>,
}

impl PrefixReader {
    pub(super) fn new(map: PrefixMap) -> Self {
        Self { map, next: 0, accounts: HashMap::new(), top: Vec::new() }
    }

    /// Reads the next slab; after the last, the top ones are known anew.
    pub(super) fn advance(&mut self) -> Result<(), DatapathError> {
        self.map.read(self.next, &mut self.accounts)?;
        self.next += 1;
        if self.next == SLABS {
            self.next = 0;
            let mut top: Vec<PrefixSnapshot> =
                self.accounts.drain().map(|(network, account)| PrefixSnapshot { network, account }).collect();
            top.sort_by_key(|prefix| (std::cmp::Reverse(prefix.account.syn), prefix.network));
            top.truncate(TOP);
            self.top = top;
        }
        Ok(())
    }

    /// The networks that sent most SYNs, most first.
    pub(super) fn top(&self) -> Vec<PrefixSnapshot> {
        self.top.clone()
    }
}

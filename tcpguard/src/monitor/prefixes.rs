//! The networks that send most, and those with most half-open handshakes.

use std::{cmp::Reverse, collections::HashMap};

use tcpguard_common::{address::Address, prefix::SLABS};

use super::half_open::HandshakeWindow;
use crate::datapath::{
    DatapathError,
    maps::{PrefixAccount, PrefixMap},
};

const TOP: usize = 20;
/// Networks with fewer SYNs than this are not followed.
const FEWEST_SYN: u64 = 16;
/// Networks that are followed at most.
const MOST_FOLLOWED: usize = 16_384;
/// Networks that are judged at most, those with most half-open handshakes.
const MOST_SUSPECTS: usize = 64;

/// One network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixSnapshot {
    /// Its first address.
    pub network: Address,
    /// Its account.
    pub account: PrefixAccount,
}

/// What is judged of one network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixReading {
    /// Its first address.
    pub network: Address,
    /// Handshakes half open.
    pub half_open: u64,
    /// Handshakes that ended within the same time.
    pub ended: u64,
    /// Handshakes that did not end, since it has been among the busy ones.
    pub unanswered: u64,
}

/// Reads the accounts a slab at a time, or all at once when they are looked at closely.
pub struct PrefixReader {
    map: PrefixMap,
    next: usize,
    accounts: HashMap<Address, PrefixAccount>,
    histories: HashMap<Address, History>,
    top: Vec<PrefixSnapshot>,
    suspects: Vec<PrefixReading>,
}

/// What became of the handshakes of a network.
#[derive(Default)]
struct History {
    last_syn: u64,
    half_open: HandshakeWindow,
    ended: HandshakeWindow,
}

impl PrefixReader {
    pub(super) fn new(map: PrefixMap) -> Self {
        Self {
            map,
            next: 0,
            accounts: HashMap::new(),
            histories: HashMap::new(),
            top: Vec::new(),
            suspects: Vec::new(),
        }
    }

    /// Reads the next slab, or all that are left of this round; after the last, the top ones are known anew.
    pub(super) fn advance(&mut self, closely: bool, period: u32) -> Result<(), DatapathError> {
        loop {
            self.map.read(self.next, &mut self.accounts)?;
            self.next = (self.next + 1) % SLABS;
            if self.next == 0 {
                self.finish_round(period);
                return Ok(());
            }
            if !closely {
                return Ok(());
            }
        }
    }

    fn finish_round(&mut self, period: u32) {
        let accounts = std::mem::take(&mut self.accounts);
        self.suspects = follow(&mut self.histories, &accounts, period);
        let mut top: Vec<PrefixSnapshot> =
            accounts.into_iter().map(|(network, account)| PrefixSnapshot { network, account }).collect();
        top.sort_by_key(|prefix| (Reverse(prefix.account.syn), prefix.network));
        top.truncate(TOP);
        self.top = top;
    }

    /// The networks that sent most SYNs, most first.
    pub(super) fn top(&self) -> Vec<PrefixSnapshot> {
        self.top.clone()
    }

    /// The networks with most half-open handshakes, most first.
    pub(super) fn suspects(&self) -> &[PrefixReading] {
        &self.suspects
    }
}

fn follow(
    histories: &mut HashMap<Address, History>,
    accounts: &HashMap<Address, PrefixAccount>,
    period: u32,
) -> Vec<PrefixReading> {
    let mut readings = Vec::new();
    histories.retain(|network, _| accounts.contains_key(network));
    for (network, account) in accounts.iter().filter(|(_, account)| account.syn >= FEWEST_SYN) {
        if histories.len() >= MOST_FOLLOWED && !histories.contains_key(network) {
            continue;
        }
        let history = histories.entry(*network).or_default();
        if account.syn < history.last_syn {
            // It lost its cell in between, and counts anew.
            history.half_open.restart();
            history.ended.restart();
        }
        history.last_syn = account.syn;
        let reading = PrefixReading {
            network: *network,
            half_open: history.half_open.count(account.syn, account.ended, period),
            ended: history.ended.count(account.ended, 0, period),
            unanswered: account.syn.saturating_sub(account.ended),
        };
        if reading.half_open > 0 {
            readings.push(reading);
        }
    }
    readings.sort_by_key(|reading| (Reverse(reading.half_open), reading.network));
    readings.truncate(MOST_SUSPECTS);
    readings
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn account(syn: u64, ended: u64) -> PrefixAccount {
        PrefixAccount { syn, ended, last_seen: 0 }
    }

    #[test]
    fn a_network_is_followed_for_the_lifetime_of_a_handshake() {
        let network = Address::from(Ipv4Addr::new(198, 18, 5, 0));
        let mut histories = HashMap::new();
        let mut look = |syn, ended, period| {
            let readings = follow(&mut histories, &HashMap::from([(network, account(syn, ended))]), period);
            readings.first().map(|reading| (reading.half_open, reading.ended))
        };
        assert_eq!(look(100, 10, 7), Some((90, 10)));
        assert_eq!(look(1000, 10, 8), Some((990, 10)));
        assert_eq!(look(1000, 10, 15), Some((900, 0)));
        assert_eq!(look(1000, 10, 16), None);
        // It lost its cell, and got it again.
        assert_eq!(look(50, 0, 16), Some((50, 0)));
    }

    #[test]
    fn a_flood_of_networks_is_not_followed_without_bound() {
        let mut histories = HashMap::new();
        let accounts = (0..100_000u32).map(|n| (Ipv4Addr::from(n << 8).into(), account(20, 0))).collect();
        assert_eq!(follow(&mut histories, &accounts, 1).len(), MOST_SUSPECTS);
        assert_eq!(histories.len(), MOST_FOLLOWED);
        follow(&mut histories, &HashMap::new(), 1);
        assert!(histories.is_empty());
    }
}

//! The prefixes with the most SYNs, and those with the most half-open handshakes.

use std::{cmp::Reverse, collections::HashMap};

use tcpguard_common::{address::Address, tracking::prefix::SLABS};

use super::half_open::HandshakeWindow;
use crate::datapath::{
    DatapathError,
    maps::{PrefixAccount, PrefixMap},
};

const TOP: usize = 20;
/// Prefixes with fewer SYNs than this are not tracked.
const MIN_SYN: u64 = 16;
/// How many prefixes are tracked at most.
const MAX_FOLLOWED: usize = 16_384;
/// How many prefixes are judged at most: those with the most half-open handshakes.
const MAX_SUSPECTS: usize = 64;

/// The account of one prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixSnapshot {
    /// Its first address.
    pub network: Address,
    /// Its counts since it got its cell.
    pub account: PrefixAccount,
}

/// The values of one prefix that a judgement is based on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixReading {
    /// Its first address.
    pub network: Address,
    /// Half-open handshakes.
    pub half_open: u64,
    /// Handshakes completed or reset within the handshake lifetime.
    pub ended: u64,
    /// SYNs less handshakes completed or reset, since the prefix got its cell.
    pub unanswered: u64,
}

/// Reads the accounts one slab per tick, or all slabs in one tick when closer inspection is requested.
pub struct PrefixReader {
    map: PrefixMap,
    next: usize,
    accounts: HashMap<Address, PrefixAccount>,
    histories: HashMap<Address, History>,
    top: Vec<PrefixSnapshot>,
    suspects: Vec<PrefixReading>,
}

/// The history of the handshakes of one prefix.
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

    /// Reads the next slab or, if `closely`, all remaining slabs of this round. The last slab completes the round and
    /// updates the top prefixes.
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
        self.suspects = follow(&mut self.histories, &self.accounts, period);
        let all = self.accounts.drain().map(|(network, account)| PrefixSnapshot { network, account }).collect();
        self.top = first(TOP, all, |prefix| (Reverse(prefix.account.syn), prefix.network));
    }

    /// Returns the prefixes with the most SYNs, largest first.
    pub(super) fn top(&self) -> Vec<PrefixSnapshot> {
        self.top.clone()
    }

    /// Returns the prefixes with the most half-open handshakes, largest first.
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
    for (network, account) in accounts.iter().filter(|(_, account)| account.syn >= MIN_SYN) {
        if histories.len() >= MAX_FOLLOWED && !histories.contains_key(network) {
            continue;
        }
        let history = histories.entry(*network).or_default();
        if account.syn < history.last_syn {
            // The prefix lost its cell in the meantime, and its counts restarted at 0.
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
    first(MAX_SUSPECTS, readings, |reading| (Reverse(reading.half_open), reading.network))
}

/// Returns the first of `all` by a key, so many at most, in that order.
fn first<T, K: Ord>(number: usize, mut all: Vec<T>, key: impl Fn(&T) -> K) -> Vec<T> {
    if all.len() > number {
        all.select_nth_unstable_by_key(number, &key);
        all.truncate(number);
    }
    all.sort_unstable_by_key(key);
    all
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
        // The prefix lost its cell and got it again.
        assert_eq!(look(50, 0, 16), Some((50, 0)));
    }

    #[test]
    fn a_flood_of_networks_is_not_followed_without_bound() {
        let mut histories = HashMap::new();
        let accounts = (0..100_000u32).map(|n| (Ipv4Addr::from(n << 8).into(), account(20, 0))).collect();
        assert_eq!(follow(&mut histories, &accounts, 1).len(), MAX_SUSPECTS);
        assert_eq!(histories.len(), MAX_FOLLOWED);
        follow(&mut histories, &HashMap::new(), 1);
        assert!(histories.is_empty());
    }
}

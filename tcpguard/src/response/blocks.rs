//! Which sources and prefixes are blocked, for how long, and how often they were blocked before.

use std::{collections::HashMap, time::Duration};

use crate::{network::Network, store::SavedBlock, time::PersistentTime};

/// How many records are kept at most; those whose block ended first are discarded first.
const MAX_BLOCKS: usize = 65_536;

/// The record of a source or prefix that was blocked.
#[derive(Clone, Copy, Debug)]
struct Record {
    times: u32,
    until: Duration,
    lasts: Duration,
    /// Its `Offender::let_in` when it was blocked; once the block has been lifted, when it was judged next.
    let_in: u64,
    /// Whether the block was lifted and it has not been judged since. SYNs passed before the block took effect, too many for
    /// the judgement that it was based on to know of all.
    is_just_lifted: bool,
}

/// What to do about an offender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockDecision {
    /// Block it for `lasts`; this is block number `times`.
    Block { lasts: Duration, times: u32 },
    /// It is already blocked, for another `left`.
    InForce { left: Duration },
    /// It was blocked before, and its SYNs since then do not justify another block.
    Wait,
}

/// A block that is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The source or prefix that is blocked.
    pub network: Network,
    /// The time until the block ends.
    pub left: Duration,
    /// How often it has been blocked, including this block.
    pub times: u32,
}

/// Keeps records of blocks. Each repeated block lasts twice as long. The count starts again after a source has not been
/// blocked for as long as its last block lasted.
pub(super) struct BlockBook {
    first: Duration,
    most: Duration,
    records: HashMap<Network, Record>,
}

impl BlockBook {
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, records: HashMap::new() }
    }

    /// Sets the lengths of future blocks.
    pub const fn set_lengths(&mut self, first: Duration, most: Duration) {
        (self.first, self.most) = (first, most);
    }

    /// Restores the record of a block from before a restart. Returns how much longer the block is in force, if it is.
    pub fn restore(&mut self, saved: &SavedBlock, now: &PersistentTime, at: Duration) -> Option<Duration> {
        let left = saved.until.remaining(now, saved.lasts);
        let past = saved.until.elapsed(now);
        if past >= saved.lasts {
            return None;
        }
        let until = (at + left).saturating_sub(past);
        let record = Record {
            times: saved.times,
            until,
            lasts: saved.lasts,
            let_in: saved.let_in,
            is_just_lifted: left.is_zero(),
        };
        self.make_room(at);
        self.records.insert(saved.network, record);
        (left > Duration::ZERO).then_some(left)
    }

    /// Returns the record of `who` to be saved for a restart.
    pub fn saved(&self, who: Network, at: Duration) -> Option<SavedBlock> {
        let record = self.records.get(&who)?;
        let until = PersistentTime::after(record.until.saturating_sub(at));
        Some(SavedBlock { network: who, times: record.times, lasts: record.lasts, let_in: record.let_in, until })
    }

    /// Decides on `who`, which has had `let_in` SYNs let in so far. More than `limit` of them since its last block make
    /// it an offender again.
    pub fn decide(&mut self, who: Network, let_in: u64, limit: u64, at: Duration) -> BlockDecision {
        let record = self.records.get_mut(&who).filter(|record| at < record.until + record.lasts);
        let times = match record {
            Some(record) if at < record.until => return BlockDecision::InForce { left: record.until - at },
            Some(record) if record.is_just_lifted => {
                (record.let_in, record.is_just_lifted) = (let_in, false);
                return BlockDecision::Wait;
            }
            Some(record) => {
                // The entry may have been evicted, which restarts its total.
                let since = if let_in < record.let_in { let_in } else { let_in - record.let_in };
                if since <= limit {
                    return BlockDecision::Wait;
                }
                record.times + 1
            }
            None => 1,
        };
        let lasts = self.first.saturating_mul(1 << (times - 1).min(30)).min(self.most);
        self.make_room(at);
        self.records.insert(who, Record { times, until: at + lasts, lasts, let_in, is_just_lifted: false });
        BlockDecision::Block { lasts, times }
    }

    /// Ends the blocks within `network` and returns what they applied to. The records are kept, so that earlier SYNs do
    /// not cause another block.
    pub fn lift(&mut self, network: Network, at: Duration) -> Vec<Network> {
        let blocked = self.records.iter_mut().filter(|(who, record)| network.contains(**who) && at < record.until);
        blocked
            .map(|(who, record)| {
                (record.until, record.is_just_lifted) = (at, true);
                *who
            })
            .collect()
    }

    /// Removes the record of `who`, whose block could not be set.
    pub fn forget(&mut self, who: Network) {
        self.records.remove(&who);
    }

    /// Returns the blocks in force.
    pub fn in_force(&self, at: Duration) -> Vec<Block> {
        let records = self.records.iter().filter(|(_, record)| at < record.until);
        records
            .map(|(network, record)| Block { network: *network, left: record.until - at, times: record.times })
            .collect()
    }

    fn make_room(&mut self, at: Duration) {
        if self.records.len() < MAX_BLOCKS {
            return;
        }
        self.records.retain(|_, record| at < record.until + record.lasts);
        if self.records.len() < MAX_BLOCKS {
            return;
        }
        let mut ends: Vec<Duration> = self.records.values().map(|record| record.until).collect();
        let (_, median, _) = ends.select_nth_unstable(MAX_BLOCKS / 16);
        let least = *median;
        self.records.retain(|_, record| record.until > least);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn who() -> Network {
        "198.18.1.1".parse().expect("a network")
    }

    fn book() -> BlockBook {
        BlockBook::new(60 * SECOND, 3600 * SECOND)
    }

    #[test]
    fn each_repeat_lasts_twice_as_long_up_to_a_limit() {
        let (mut book, mut at, mut let_in) = (book(), Duration::ZERO, 0);
        for expected in [60, 120, 240, 480, 960, 1920, 3600, 3600] {
            let_in += 100;
            let BlockDecision::Block { lasts, .. } = book.decide(who(), let_in, 64, at) else {
                panic!("no block at {at:?}")
            };
            assert_eq!(lasts, expected * SECOND);
            assert!(matches!(book.decide(who(), let_in + 100, 64, at + SECOND), BlockDecision::InForce { .. }));
            at += lasts;
        }
    }

    #[test]
    fn what_came_before_a_block_is_not_held_against_it_again() {
        let mut book = book();
        book.decide(who(), 1000, 64, Duration::ZERO);
        assert_eq!(book.decide(who(), 1064, 64, 61 * SECOND), BlockDecision::Wait);
        assert_eq!(book.decide(who(), 1065, 64, 62 * SECOND), BlockDecision::Block { lasts: 120 * SECOND, times: 2 });
        // The entry was evicted, and its total restarted.
        assert_eq!(book.decide(who(), 60, 64, 190 * SECOND), BlockDecision::Wait);
        assert!(matches!(book.decide(who(), 65, 64, 191 * SECOND), BlockDecision::Block { times: 3, .. }));
    }

    #[test]
    fn who_has_behaved_begins_anew() {
        let mut book = book();
        book.decide(who(), 100, 64, Duration::ZERO);
        assert_eq!(book.decide(who(), 200, 64, 121 * SECOND), BlockDecision::Block { lasts: 60 * SECOND, times: 1 });
    }

    #[test]
    fn a_lifted_block_is_over_and_not_repeated_for_what_was_before() {
        let mut book = book();
        book.decide(who(), 100, 64, Duration::ZERO);
        assert_eq!(book.in_force(SECOND).len(), 1);
        assert_eq!(book.lift("198.18.0.0/16".parse().expect("a network"), SECOND), [who()]);
        assert!(book.in_force(SECOND).is_empty());
        // Of these, most passed before the block took effect.
        assert_eq!(book.decide(who(), 2416, 64, 2 * SECOND), BlockDecision::Wait);
        assert_eq!(book.decide(who(), 2480, 64, 3 * SECOND), BlockDecision::Wait);
        assert!(matches!(book.decide(who(), 2481, 64, 4 * SECOND), BlockDecision::Block { times: 2, .. }));
    }

    #[test]
    fn a_block_goes_on_after_a_restart() {
        let mut before = book();
        before.decide(who(), 100, 64, Duration::ZERO);
        let saved = before.saved(who(), 20 * SECOND).expect("remembered");
        // The clock that judgements use restarts.
        let mut after = book();
        let left = after.restore(&saved, &PersistentTime::now(), SECOND).expect("in force");
        assert!((39..=40).contains(&left.as_secs()), "{left:?}");
        assert!(matches!(after.decide(who(), 200, 64, 2 * SECOND), BlockDecision::InForce { .. }));
        assert_eq!(after.decide(who(), 110, 64, 42 * SECOND), BlockDecision::Wait);
        assert_eq!(after.decide(who(), 200, 64, 43 * SECOND), BlockDecision::Block { lasts: 120 * SECOND, times: 2 });
    }

    #[test]
    fn a_lifted_block_is_not_repeated_after_a_restart_either() {
        let mut before = book();
        before.decide(who(), 100, 64, Duration::ZERO);
        before.lift(who(), SECOND);
        let saved = before.saved(who(), SECOND).expect("remembered");
        let mut after = book();
        assert_eq!(after.restore(&saved, &PersistentTime::now(), Duration::ZERO), None);
        assert_eq!(after.decide(who(), 2416, 64, SECOND), BlockDecision::Wait);
        assert!(matches!(after.decide(who(), 2481, 64, 2 * SECOND), BlockDecision::Block { times: 2, .. }));
    }

    #[test]
    fn memory_is_bounded() {
        let mut book = book();
        for n in 0..3 * MAX_BLOCKS as u32 {
            let who = Network::of(std::net::Ipv4Addr::from(n).into());
            assert!(matches!(book.decide(who, 100, 64, SECOND * n / 1000), BlockDecision::Block { .. }));
            assert!(book.records.len() <= MAX_BLOCKS);
        }
    }
}

//! Blocking offenders, and lifting blocks.

use std::{collections::BTreeSet, time::Duration};

use tracing::error;

use super::{
    blocks::{Block, BlockBook, BlockDecision},
    reporter::Reporter,
};
use crate::{
    config::Config,
    datapath::Datapath,
    detect::{Offender, Offenders},
    events::{EventKind, EventLog, Note},
    lists::{ListError, Lists},
    monitor::Snapshot,
    network::Network,
    store::{Record, SavedBlock, Store},
    time::{PersistentTime, in_ticks},
};

/// Blocks sources in the source table, and prefixes in the lists.
pub(super) struct Blocker {
    book: BlockBook,
    prefix_lengths: (u8, u8),
    lists: Lists,
    events: EventLog,
    store: Store,
    /// Prefixes whose blocks could not be lifted yet.
    to_lift: BTreeSet<Network>,
    has_failed: bool,
}

impl Blocker {
    pub fn new(config: &Config, lists: Lists, events: EventLog, store: Store) -> Self {
        Self {
            book: BlockBook::new(config.source.block_for, config.source.block_max),
            prefix_lengths: (config.source.prefix_v4, config.source.prefix_v6),
            lists,
            events,
            store,
            to_lift: BTreeSet::new(),
            has_failed: false,
        }
    }

    /// Applies a changed configuration. Blocks in force stay.
    pub fn reconfigure(&mut self, config: &Config) {
        self.book.set_lengths(config.source.block_for, config.source.block_max);
    }

    /// Restores the blocks from before a restart.
    pub fn resume(&mut self, blocks: &[SavedBlock], datapath: &Datapath, at: Duration) {
        let now = PersistentTime::now();
        for saved in blocks {
            if self.lists.is_allowed(saved.network) != Some(false) {
                continue;
            }
            let Some(left) = self.book.restore(saved, &now, at) else { continue };
            if let Err(error) = self.block_again(saved.network, left, datapath) {
                self.fail(&format!("the block of {} could not be restored: {error}", saved.network));
            }
        }
    }

    /// Blocks the offenders, and lifts the blocks that were postponed.
    pub fn block_all(
        &mut self,
        offenders: &Offenders,
        snapshot: &Snapshot,
        datapath: &Datapath,
        report: &mut Reporter,
        at: Duration,
    ) {
        for offender in &offenders.prefixes {
            self.block_prefix(offender, snapshot, report, at);
        }
        for offender in &offenders.sources {
            self.block_source(offender, snapshot, datapath, report, at);
        }
    }

    /// Returns the blocks in force, those that end first at the start.
    pub fn in_force(&self, at: Duration) -> Vec<Block> {
        let mut blocks = self.book.in_force(at);
        blocks.sort_by_key(|block| (block.left, block.network));
        blocks
    }

    fn block_again(&self, network: Network, left: Duration, datapath: &Datapath) -> Result<(), ListError> {
        let until = datapath.jiffies()? + in_ticks(left, datapath.ticks_per_second);
        if network.length() == 128 {
            return Ok(datapath.block(network.first(), until)?);
        }
        self.lists.block(network, until).map(drop)
    }

    /// Saves the record of a block in the store.
    fn keep(&self, network: Network, at: Duration) {
        if let Some(block) = self.book.saved(network, at) {
            self.store.write(Record::Block(block));
        }
    }

    /// Lifts the blocks within `network` and returns how many there were.
    pub fn lift(&mut self, network: Network, datapath: &Datapath, at: Duration) -> usize {
        let lifted = self.book.lift(network, at);
        for network in &lifted {
            let result = if network.length() == 128 {
                datapath.block(network.first(), 0).map_err(Into::into)
            } else {
                self.lift_network(*network)
            };
            if let Err(error) = result {
                error!("the block of {network} could not be lifted: {error}");
            }
            self.keep(*network, at);
            self.events
                .record(Note::new(EventKind::BlockLifted, format!("the block of {network} was lifted")).about(network));
        }
        lifted.len()
    }

    /// Lifts the block of a prefix. While a long list is being changed, this is postponed to the next tick.
    fn lift_network(&mut self, network: Network) -> Result<(), ListError> {
        if !self.lists.block(network, 0)? {
            self.to_lift.insert(network);
        }
        Ok(())
    }

    /// Lifts the blocks that were postponed.
    pub fn lift_postponed(&mut self) {
        for network in std::mem::take(&mut self.to_lift) {
            if let Err(error) = self.lift_network(network) {
                error!("the block of {network} could not be lifted: {error}");
            }
        }
    }

    fn block_prefix(&mut self, offender: &Offender, snapshot: &Snapshot, report: &mut Reporter, at: Duration) {
        let network = Network::at(offender.address, self.prefix_lengths);
        // No source has an address in a prefix around the IPv4-mapped addresses, and a block of it would apply to all
        // of IPv4.
        if network.contains_ipv4() || self.lists.is_allowed(network) != Some(false) {
            return;
        }
        let BlockDecision::Block { lasts, times } = self.book.decide(network, offender.let_in, offender.limit, at)
        else {
            return;
        };
        let until = snapshot.clock.after(lasts);
        self.to_lift.remove(&network);
        match self.lists.block(network, until) {
            Ok(true) => {
                self.keep(network, at);
                report.blocked(EventKind::PrefixBlocked, network, offender, lasts, times);
            }
            // A long list is being changed: the next tick tries again.
            Ok(false) => self.book.forget(network),
            Err(error) => self.fail(&format!("{network} could not be blocked: {error}")),
        }
    }

    fn block_source(
        &mut self,
        offender: &Offender,
        snapshot: &Snapshot,
        datapath: &Datapath,
        report: &mut Reporter,
        at: Duration,
    ) {
        let network = Network::of(offender.address);
        if self.lists.is_allowed(network) != Some(false) {
            return;
        }
        let (lasts, times) = match self.book.decide(network, offender.let_in, offender.limit, at) {
            BlockDecision::Block { lasts, times } => (lasts, Some(times)),
            // The source's entry may have been evicted, and the block with it.
            BlockDecision::InForce { left } => (left, None),
            BlockDecision::Wait => return,
        };
        if times.is_none() && offender.blocked_until > snapshot.clock.jiffies() {
            return;
        }
        match datapath.block(offender.address, snapshot.clock.after(lasts)) {
            Ok(()) => {
                if let Some(times) = times {
                    self.keep(network, at);
                    report.blocked(EventKind::SourceBlocked, network, offender, lasts, times);
                }
            }
            Err(error) => {
                // Blocked in the next tick, if there is room by then.
                if times.is_some() {
                    self.book.forget(network);
                }
                self.fail(&format!("{network} could not be blocked: {error}"));
            }
        }
    }

    /// Logs only the first problem, since what fails for one source fails for all.
    fn fail(&mut self, problem: &str) {
        if !std::mem::replace(&mut self.has_failed, true) {
            error!("{problem}");
        }
    }
}

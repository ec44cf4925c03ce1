//! All entries of all lists, and the rule that follows for each network. Overlapping entries are resolved here, so that
//! the datapath needs only one longest-prefix lookup.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tcpguard_common::abi::rule::{FOREVER, MAX_RULES, Rule};

use super::{ListError, ListName, Origin};
use crate::datapath::{DatapathError, maps::RuleMap};
use crate::network::Network;

/// The destination of rules.
pub(super) trait RuleSink: Send {
    fn set(&mut self, network: Network, rule: Rule) -> Result<(), DatapathError>;
    fn remove(&mut self, network: Network) -> Result<(), DatapathError>;
}

impl RuleSink for RuleMap {
    fn set(&mut self, network: Network, rule: Rule) -> Result<(), DatapathError> {
        self.set(network.first(), network.length(), rule)
    }

    fn remove(&mut self, network: Network) -> Result<(), DatapathError> {
        self.remove(network.first(), network.length())
    }
}

/// An entry of a list. Times are in jiffies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub list: ListName,
    pub origin: Origin,
    pub reason: Option<Box<str>>,
    pub until: u64,
}

/// All entries and the block of one network.
#[derive(Default)]
struct Cell {
    items: Vec<Item>,
    /// When its block ends, in jiffies; 0 if it is not blocked.
    blocked_until: u64,
    written: Option<Rule>,
}

pub(super) struct ListBook {
    cells: BTreeMap<Network, Cell>,
    /// The number of networks of each prefix length.
    lengths: [u32; 129],
    expiries: BTreeSet<(u64, Network)>,
    /// Incremented with every change of a rule.
    generation: Arc<AtomicU64>,
    rules: Box<dyn RuleSink>,
}

impl ListBook {
    pub fn new(rules: Box<dyn RuleSink>) -> Self {
        Self {
            cells: BTreeMap::new(),
            lengths: [0; 129],
            expiries: BTreeSet::new(),
            generation: Arc::new(AtomicU64::new(1)),
            rules,
        }
    }

    /// Returns the generation, which is incremented with every change of a rule.
    pub fn generation(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.generation)
    }

    /// Adds an entry, replacing an entry of the same list and origin.
    pub fn insert(&mut self, network: Network, item: Item) -> Result<(), ListError> {
        self.put(network, item)?;
        self.refresh(network)
    }

    /// Replaces all entries that `origin` has on `list` by `networks`.
    pub fn replace(&mut self, list: ListName, origin: &Origin, networks: &BTreeSet<Network>) -> Result<(), ListError> {
        let is_theirs = |item: &Item| item.list == list && item.origin == *origin;
        let gone: Vec<Network> = self
            .cells
            .iter()
            .filter(|(network, cell)| cell.items.iter().any(is_theirs) && !networks.contains(network))
            .map(|(network, _)| *network)
            .collect();
        for network in gone {
            if let Some(cell) = self.cells.get_mut(&network) {
                cell.items.retain(|item| !is_theirs(item));
            }
        }
        let item = Item { list, origin: origin.clone(), reason: None, until: FOREVER };
        // Networks that do not fit are left out; the others are in force.
        let added = networks.iter().try_for_each(|network| self.put(*network, item.clone()));
        self.refresh(Network::EVERYTHING)?;
        added
    }

    /// Removes the entries of `list` for exactly this network and an origin that matches, and returns their number.
    pub fn remove(
        &mut self,
        network: Network,
        list: ListName,
        is_wanted: impl Fn(&Origin) -> bool,
    ) -> Result<usize, ListError> {
        let Some(cell) = self.cells.get_mut(&network) else { return Ok(0) };
        let before = cell.items.len();
        cell.items.retain(|item| item.list != list || !is_wanted(&item.origin));
        let removed = before - cell.items.len();
        self.refresh(network)?;
        Ok(removed)
    }

    /// Blocks a prefix until `until` (jiffies), or lifts its block if that is 0. Returns `true` if it was blocked
    /// before.
    pub fn block(&mut self, network: Network, until: u64) -> Result<bool, ListError> {
        if until == 0 && !self.cells.contains_key(&network) {
            return Ok(false);
        }
        let before = std::mem::replace(&mut self.cell(network)?.blocked_until, until);
        self.reschedule(network, before);
        self.refresh(network)?;
        Ok(before != 0)
    }

    /// Removes what expired by `jiffies` and returns the expired entries.
    pub fn expire(&mut self, jiffies: u64) -> Result<Vec<(Network, Item)>, ListError> {
        let mut expired = Vec::new();
        while let Some((until, network)) = self.expiries.first().copied()
            && until <= jiffies
        {
            self.expiries.pop_first();
            let Some(cell) = self.cells.get_mut(&network) else { continue };
            if cell.blocked_until <= jiffies {
                cell.blocked_until = 0;
            }
            let gone = cell.items.extract_if(.., |item| item.until <= jiffies);
            expired.extend(gone.map(|item| (network, item)));
            self.refresh(network)?;
        }
        Ok(expired)
    }

    /// Returns `true` if an allow entry covers `network`.
    pub fn is_allowed(&self, network: Network) -> bool {
        self.covering(network).any(|(_, cell)| cell.items.iter().any(|item| item.list == ListName::Allow))
    }

    /// Returns the entries that cover `network`, the widest networks first.
    pub fn entries_covering(&self, network: Network) -> Vec<(Network, Item)> {
        self.covering(network)
            .flat_map(|(network, cell)| cell.items.iter().map(move |item| (network, item.clone())))
            .collect()
    }

    /// Returns the entries of up to `most` networks that follow `last`, in order; `None` starts at the first.
    pub fn entries_after(&self, last: Option<Network>, most: usize) -> Vec<(Network, Vec<Item>)> {
        let start = last.map_or(Bound::Unbounded, Bound::Excluded);
        let cells = self.cells.range((start, Bound::Unbounded)).take(most);
        cells.map(|(network, cell)| (*network, cell.items.clone())).collect()
    }

    /// Returns `true` if there are no rules.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    fn put(&mut self, network: Network, item: Item) -> Result<(), ListError> {
        let cell = self.cell(network)?;
        let same = cell.items.iter_mut().find(|other| other.list == item.list && other.origin == item.origin);
        let until = item.until;
        let before = match same {
            Some(same) => std::mem::replace(same, item).until,
            None => {
                cell.items.push(item);
                FOREVER
            }
        };
        // Most entries of a long list never expire.
        if (before, until) != (FOREVER, FOREVER) {
            self.reschedule(network, before);
        }
        Ok(())
    }

    /// Updates the expiry times of a network; `before` is one that may not apply any more.
    fn reschedule(&mut self, network: Network, before: u64) {
        self.expiries.remove(&(before, network));
        let Some(cell) = self.cells.get(&network) else { return };
        let ends = cell.items.iter().map(|item| item.until).chain([cell.blocked_until]);
        self.expiries.extend(ends.filter(|until| ![0, FOREVER].contains(until)).map(|until| (until, network)));
    }

    fn cell(&mut self, network: Network) -> Result<&mut Cell, ListError> {
        let is_full = self.cells.len() >= MAX_RULES as usize;
        match self.cells.entry(network) {
            std::collections::btree_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::btree_map::Entry::Vacant(_) if is_full => Err(ListError::Full),
            std::collections::btree_map::Entry::Vacant(entry) => {
                self.lengths[usize::from(network.length())] += 1;
                Ok(entry.insert(Cell::default()))
            }
        }
    }

    /// Returns the cells of networks that contain `network`, including itself, the widest first.
    fn covering(&self, network: Network) -> impl Iterator<Item = (Network, &Cell)> {
        (0..=network.length())
            .filter(|length| self.lengths[usize::from(*length)] > 0)
            .map(move |length| network.widened(length))
            .filter_map(|wider| self.cells.get(&wider).map(|cell| (wider, cell)))
    }

    /// Updates the rules of `top`, of all networks within it, and of the networks that contain it.
    fn refresh(&mut self, top: Network) -> Result<(), ListError> {
        let result = self.write(top);
        // Not before the last write: whatever the datapath caches with this generation was looked up after it.
        self.generation.fetch_add(1, Ordering::Relaxed);
        result
    }

    fn write(&mut self, top: Network) -> Result<(), ListError> {
        self.remove_empty(top)?;
        let around: Vec<Network> = self.covering(top).map(|(network, _)| network).filter(|n| *n != top).collect();
        let mut wider: Vec<(Network, Rule)> = Vec::new();
        for network in around {
            let is_whole = self.is_whole(network);
            if let Some(cell) = self.cells.get_mut(&network) {
                let rule = cell.write(network, &mut wider, is_whole, &mut *self.rules)?;
                wider.push((network, rule));
            }
        }
        let mut within = self.cells.range_mut(top..=top.last()).peekable();
        while let Some((network, cell)) = within.next() {
            let is_whole = within.peek().is_none_or(|(next, _)| !network.contains(**next));
            let rule = cell.write(*network, &mut wider, is_whole, &mut *self.rules)?;
            wider.push((*network, rule));
        }
        Ok(())
    }

    /// Returns `true` if no smaller network within `network` has a cell.
    fn is_whole(&self, network: Network) -> bool {
        let mut within = self.cells.range((Bound::Excluded(network), Bound::Included(network.last())));
        within.next().is_none()
    }

    fn remove_empty(&mut self, top: Network) -> Result<(), ListError> {
        let within = self.cells.range(top..=top.last());
        let empty = within.filter(|(_, cell)| cell.items.is_empty() && cell.blocked_until == 0);
        for network in empty.map(|(network, _)| *network).collect::<Vec<_>>() {
            self.rules.remove(network)?;
            self.cells.remove(&network);
            self.lengths[usize::from(network.length())] -= 1;
        }
        Ok(())
    }
}

impl Cell {
    /// Writes the rule of `network` if it changed. `wider` are the rules of networks that may contain it, the widest
    /// first.
    fn write(
        &mut self,
        network: Network,
        wider: &mut Vec<(Network, Rule)>,
        is_whole: bool,
        rules: &mut dyn RuleSink,
    ) -> Result<Rule, DatapathError> {
        while wider.last().is_some_and(|(outer, _)| !outer.contains(network)) {
            wider.pop();
        }
        let around = wider.last().map_or_else(Rule::default, |(_, rule)| *rule);
        let is_whole = is_whole && network.is_cached_whole();
        let rule = Rule { is_whole: is_whole.into(), ..around.joined(&self.own()) };
        if self.written != Some(rule) {
            rules.set(network, rule)?;
            self.written = Some(rule);
        }
        Ok(rule)
    }

    /// Returns the rule that follows from the entries of this network alone.
    fn own(&self) -> Rule {
        let mut rule = Rule { blocked_until: self.blocked_until, ..Rule::default() };
        for item in &self.items {
            match item.list {
                ListName::Allow => rule.is_allowed = 1,
                ListName::Deny => rule.denied_until = rule.denied_until.max(item.until),
            }
        }
        rule
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use proptest::prelude::*;
    use tcpguard_common::abi::rule::Standing;

    use super::*;

    /// Looks up rules like the datapath.
    #[derive(Clone, Default)]
    struct Trie(Arc<Mutex<BTreeMap<Network, Rule>>>);

    impl Trie {
        fn standing(&self, address: &str, jiffies: u64) -> Standing {
            self.standing_of(address.parse().expect("an address"), jiffies)
        }

        fn standing_of(&self, address: Network, jiffies: u64) -> Standing {
            let rules = self.0.lock().expect("no panic");
            let longest = rules.iter().filter(|(network, _)| network.contains(address)).max_by_key(|(n, _)| n.length());
            longest.map_or(Standing::Ordinary, |(_, rule)| rule.standing(jiffies))
        }
    }

    impl RuleSink for Trie {
        fn set(&mut self, network: Network, rule: Rule) -> Result<(), DatapathError> {
            self.0.lock().expect("no panic").insert(network, rule);
            Ok(())
        }

        fn remove(&mut self, network: Network) -> Result<(), DatapathError> {
            self.0.lock().expect("no panic").remove(&network);
            Ok(())
        }
    }

    fn item(list: ListName, until: u64) -> Item {
        Item { list, origin: Origin::Manual, reason: None, until }
    }

    fn network(text: &str) -> Network {
        text.parse().expect("a network")
    }

    fn book() -> (ListBook, Trie) {
        let trie = Trie::default();
        (ListBook::new(Box::new(trie.clone())), trie)
    }

    #[test]
    fn an_allow_entry_beats_every_deny_and_block() {
        let (mut book, trie) = book();
        book.insert(network("198.18.0.0/16"), item(ListName::Allow, FOREVER)).expect("room");
        book.insert(network("198.18.5.0/24"), item(ListName::Deny, FOREVER)).expect("room");
        book.block(network("198.18.5.7"), FOREVER).expect("room");
        assert_eq!(trie.standing("198.18.5.7", 1), Standing::Allowed);
        book.insert(network("203.0.113.0/24"), item(ListName::Deny, FOREVER)).expect("room");
        book.insert(network("203.0.113.9"), item(ListName::Allow, FOREVER)).expect("room");
        assert_eq!(trie.standing("203.0.113.9", 1), Standing::Allowed);
        assert_eq!(trie.standing("203.0.113.8", 1), Standing::Denied);
        book.remove(network("198.18.0.0/16"), ListName::Allow, |_| true).expect("written");
        assert_eq!(trie.standing("198.18.5.7", 1), Standing::Denied);
    }

    #[test]
    fn a_short_deny_within_a_long_one_does_not_end_it() {
        let (mut book, trie) = book();
        book.insert(network("198.18.5.0/24"), item(ListName::Deny, 100)).expect("room");
        book.insert(network("198.18.0.0/16"), item(ListName::Deny, FOREVER)).expect("room");
        assert_eq!(trie.standing("198.18.5.7", 500), Standing::Denied);
        let expired = book.expire(100).expect("written");
        assert_eq!(expired.len(), 1);
        assert_eq!(trie.standing("198.18.5.7", 500), Standing::Denied);
        book.remove(network("198.18.0.0/16"), ListName::Deny, |_| true).expect("written");
        assert!(book.is_empty() && trie.0.lock().expect("no panic").is_empty());
    }

    #[test]
    fn blocks_expire() {
        let (mut book, trie) = book();
        book.block(network("198.18.5.0/24"), 100).expect("room");
        assert_eq!(trie.standing("198.18.5.7", 99), Standing::Blocked);
        assert_eq!(trie.standing("198.18.5.7", 100), Standing::Ordinary);
        // The block was prolonged in the meantime.
        book.block(network("198.18.5.0/24"), 200).expect("room");
        book.expire(150).expect("written");
        assert_eq!(trie.standing("198.18.5.7", 150), Standing::Blocked);
        book.expire(200).expect("written");
        assert!(book.is_empty());
    }

    #[test]
    fn a_file_s_entries_are_replaced_and_others_kept() {
        let (mut book, trie) = book();
        let file = Origin::File("a".into());
        book.insert(network("198.18.1.1"), item(ListName::Deny, FOREVER)).expect("room");
        let first = BTreeSet::from([network("198.18.1.1"), network("198.18.2.0/24")]);
        book.replace(ListName::Deny, &file, &first).expect("room");
        let second = BTreeSet::from([network("198.18.3.0/24")]);
        book.replace(ListName::Deny, &file, &second).expect("room");
        assert_eq!(trie.standing("198.18.1.1", 1), Standing::Denied);
        assert_eq!(trie.standing("198.18.2.1", 1), Standing::Ordinary);
        assert_eq!(trie.standing("198.18.3.1", 1), Standing::Denied);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(Network, ListName, u64),
        Remove(Network, ListName),
        Block(Network, u64),
        Expire(u64),
    }

    /// Generates networks that often contain each other.
    fn any_network() -> impl Strategy<Value = Network> {
        (0..8u8, prop_oneof![Just(8u8), Just(24), Just(30), Just(32)])
            .prop_map(|(last, length)| network(&format!("198.18.0.{last}/{length}")))
    }

    fn any_step() -> impl Strategy<Value = Step> {
        let list = || prop_oneof![Just(ListName::Allow), Just(ListName::Deny)];
        let until = || prop_oneof![Just(FOREVER), 1..100u64];
        prop_oneof![
            4 => (any_network(), list(), until()).prop_map(|(network, list, until)| Step::Insert(network, list, until)),
            2 => (any_network(), list()).prop_map(|(network, list)| Step::Remove(network, list)),
            2 => (any_network(), until()).prop_map(|(network, until)| Step::Block(network, until)),
            1 => (1..100u64).prop_map(Step::Expire),
        ]
    }

    proptest! {
        /// One longest-prefix lookup gives the same result as all entries together.
        #[test]
        fn a_rule_is_what_all_entries_say(steps in prop::collection::vec(any_step(), 1..40), at in 0..8u8) {
            let (mut book, trie) = book();
            let mut now = 0;
            for step in steps {
                match step {
                    Step::Insert(network, list, until) => {
                        book.insert(network, item(list, until.max(now + 1))).expect("room");
                    }
                    Step::Remove(network, list) => drop(book.remove(network, list, |_| true).expect("written")),
                    Step::Block(network, until) => drop(book.block(network, until.max(now + 1)).expect("room")),
                    Step::Expire(jiffies) => {
                        now = now.max(jiffies);
                        book.expire(now).expect("written");
                    }
                }
            }
            let address = network(&format!("198.18.0.{at}"));
            let mut all = Rule::default();
            for (_, cell) in book.covering(address) {
                all = all.joined(&cell.own());
            }
            prop_assert_eq!(trie.standing_of(address, now), all.standing(now));
            for (network, rule) in trie.0.lock().expect("no panic").iter() {
                prop_assert_eq!(rule.is_whole != 0, network.is_cached_whole() && book.is_whole(*network));
            }
            prop_assert_eq!(book.cells.len(), trie.0.lock().expect("no panic").len());
        }
    }
}

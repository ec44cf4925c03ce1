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

use tcpguard_common::abi::{
    lease::flag,
    rule::{FOREVER, MAX_RULES, Rule},
};

use super::{
    ListError, ListName, Origin,
    cell::{Cell, Item},
    outline::Outline,
};
use crate::{
    datapath::{
        DatapathError,
        maps::{OutlineTable, RuleMap},
    },
    network::Network,
};

/// The destination of rules.
pub(super) trait RuleSink: Send {
    fn set(&mut self, network: Network, rule: Rule) -> Result<(), DatapathError>;
    fn remove(&mut self, network: Network) -> Result<(), DatapathError>;
    fn set_word(&mut self, table: OutlineTable, word: u32, value: u64) -> Result<(), DatapathError>;
}

impl RuleSink for RuleMap {
    fn set(&mut self, network: Network, rule: Rule) -> Result<(), DatapathError> {
        self.set(network.first(), network.length(), rule)
    }

    fn remove(&mut self, network: Network) -> Result<(), DatapathError> {
        self.remove(network.first(), network.length())
    }

    fn set_word(&mut self, table: OutlineTable, word: u32, value: u64) -> Result<(), DatapathError> {
        self.set_word(table, word, value)
    }
}

pub(super) struct ListBook {
    cells: BTreeMap<Network, Cell>,
    /// The number of networks of each prefix length.
    lengths: [u32; 129],
    expiries: BTreeSet<(u64, Network)>,
    /// Incremented with every change of a rule.
    generation: Arc<AtomicU64>,
    /// See [`ListBook::flags`].
    flags: Arc<AtomicU64>,
    outline: Outline,
    rules: Box<dyn RuleSink>,
}

impl ListBook {
    /// Creates an empty book. `hash_key` is the datapath's.
    pub fn new(rules: Box<dyn RuleSink>, hash_key: u64) -> Self {
        Self {
            cells: BTreeMap::new(),
            lengths: [0; 129],
            expiries: BTreeSet::new(),
            generation: Arc::new(AtomicU64::new(1)),
            flags: Arc::default(),
            outline: Outline::new(hash_key),
            rules,
        }
    }

    /// Returns the generation, which is incremented with every change of a rule.
    pub fn generation(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.generation)
    }

    /// Returns the flags of the lease that belong to the rules ([`flag::OF_LISTS`]).
    pub fn flags(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.flags)
    }

    /// Adds an entry, replacing an entry of the same list and origin.
    pub fn insert(&mut self, network: Network, item: Item) -> Result<(), ListError> {
        self.put(network, item)?;
        self.refresh(network)
    }

    /// Replaces all entries that `origin` has on `list` by `networks`.
    pub fn replace(&mut self, list: ListName, origin: &Origin, mut networks: Vec<Network>) -> Result<(), ListError> {
        networks.sort_unstable();
        networks.dedup();
        let gone: Vec<Network> = self
            .cells
            .iter()
            .filter(|(_, cell)| cell.has(list, |other| other == origin))
            .filter(|(network, _)| networks.binary_search(network).is_err())
            .map(|(network, _)| *network)
            .collect();
        for network in gone {
            if let Some(cell) = self.cells.get_mut(&network) {
                cell.change(|items| items.retain(|item| item.list != list || item.origin != *origin));
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
        let removed = cell.change(|items| {
            let before = items.len();
            items.retain(|item| item.list != list || !is_wanted(&item.origin));
            before - items.len()
        });
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
            let gone: Vec<Item> = cell.change(|items| items.extract_if(.., |item| item.until <= jiffies).collect());
            expired.extend(gone.into_iter().map(|item| (network, item)));
            self.refresh(network)?;
        }
        Ok(expired)
    }

    /// Returns `true` if an allow entry covers `network`.
    pub fn is_allowed(&self, network: Network) -> bool {
        self.covering(network).any(|(_, cell)| cell.has(ListName::Allow, |_| true))
    }

    /// Returns the entries that cover `network`, the widest networks first.
    pub fn entries_covering(&self, network: Network) -> Vec<(Network, Item)> {
        self.covering(network)
            .flat_map(|(network, cell)| cell.items().into_iter().map(move |item| (network, item)))
            .collect()
    }

    /// Returns the entries of up to `most` networks that follow `last`, in order; `None` starts at the first.
    pub fn entries_after(&self, last: Option<Network>, most: usize) -> Vec<(Network, Vec<Item>)> {
        let start = last.map_or(Bound::Unbounded, Bound::Excluded);
        let cells = self.cells.range((start, Bound::Unbounded)).take(most);
        cells.map(|(network, cell)| (*network, cell.items())).collect()
    }

    /// Returns `true` if there are no rules.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    fn put(&mut self, network: Network, item: Item) -> Result<(), ListError> {
        let cell = self.cell(network)?;
        let until = item.until;
        let before = cell.put(item);
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
        self.expiries.extend(cell.ends().into_iter().map(|until| (until, network)));
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
        covering(&self.cells, &self.lengths, network)
    }

    /// Updates the rules of `top`, of all networks within it, and of the networks that contain it.
    fn refresh(&mut self, top: Network) -> Result<(), ListError> {
        let written = self.write(top);
        // If not everything could be written, the outline is that of the rules that were.
        let result = written.and(self.draw(top));
        // Not before the last write: whatever the datapath caches with this generation was looked up after it.
        self.generation.fetch_add(1, Ordering::Relaxed);
        result
    }

    /// Updates the outline of `top`, and the flags.
    fn draw(&mut self, top: Network) -> Result<(), ListError> {
        let part = if self.outline.is_worn(self.cells.len()) { Network::EVERYTHING } else { Outline::affected(top) };
        let Self { cells, lengths, outline, rules, .. } = self;
        let around = covering(cells, lengths, part).filter(|(network, _)| *network != part);
        let within = cells.range(part..=part.last()).map(|(network, cell)| (*network, cell));
        let all = around.chain(within).filter_map(|(network, cell)| Some((network, cell.written()?)));
        outline.update(part, all, &mut |table, word, value| rules.set_word(table, word, value))?;
        let flags = if self.cells.is_empty() { 0 } else { flag::RULES | self.outline.flags() };
        self.flags.store(flags, Ordering::Relaxed);
        Ok(())
    }

    fn write(&mut self, top: Network) -> Result<(), ListError> {
        self.remove_empty(top)?;
        let around: Vec<Network> = self.covering(top).map(|(network, _)| network).filter(|n| *n != top).collect();
        let mut wider: Vec<(Network, Rule)> = Vec::new();
        for network in around {
            let is_whole = self.is_whole(network);
            if let Some(cell) = self.cells.get_mut(&network) {
                let rule = write(cell, network, &mut wider, is_whole, &mut *self.rules)?;
                wider.push((network, rule));
            }
        }
        let mut within = self.cells.range_mut(top..=top.last()).peekable();
        while let Some((network, cell)) = within.next() {
            let is_whole = within.peek().is_none_or(|(next, _)| !network.contains(**next));
            let rule = write(cell, *network, &mut wider, is_whole, &mut *self.rules)?;
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
        let empty = within.filter(|(_, cell)| cell.is_empty());
        for network in empty.map(|(network, _)| *network).collect::<Vec<_>>() {
            self.rules.remove(network)?;
            self.cells.remove(&network);
            self.lengths[usize::from(network.length())] -= 1;
        }
        Ok(())
    }
}

/// Returns the cells of networks that contain `network`, including itself, the widest first. `lengths` are the numbers of
/// cells of each prefix length.
fn covering<'a>(
    cells: &'a BTreeMap<Network, Cell>,
    lengths: &'a [u32; 129],
    network: Network,
) -> impl Iterator<Item = (Network, &'a Cell)> {
    (0..=network.length())
        .filter(|length| lengths[usize::from(*length)] > 0)
        .map(move |length| network.widened(length))
        .filter_map(|wider| cells.get(&wider).map(|cell| (wider, cell)))
}

/// Writes the rule of `network`, whose cell is `cell`, if it changed. `wider` are the rules of networks that may contain it,
/// the widest first.
fn write(
    cell: &mut Cell,
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
    let rule = Rule { is_whole: is_whole.into(), ..around.joined(&cell.own()) };
    if cell.written() != Some(rule) {
        rules.set(network, rule)?;
        cell.note_written(rule);
    }
    Ok(rule)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use proptest::prelude::*;
    use tcpguard_common::abi::{outline::ipv4_place, rule::Standing};

    use super::*;

    /// The datapath's rules and their outline.
    #[derive(Default)]
    struct Maps {
        rules: BTreeMap<Network, Rule>,
        outline: BTreeMap<(OutlineTable, u32), u64>,
    }

    /// Looks up rules like the datapath.
    #[derive(Clone, Default)]
    struct Trie(Arc<Mutex<Maps>>);

    impl Trie {
        fn standing(&self, address: &str, jiffies: u64) -> Standing {
            self.standing_of(address.parse().expect("an address"), jiffies)
        }

        fn standing_of(&self, address: Network, jiffies: u64) -> Standing {
            let maps = self.0.lock().expect("no panic");
            let longest =
                maps.rules.iter().filter(|(network, _)| network.contains(address)).max_by_key(|(n, _)| n.length());
            let found = longest.map_or(Standing::Ordinary, |(_, rule)| rule.standing(jiffies));
            let (word, bit) = ipv4_place(address.ipv4_blocks().expect("an IPv4 address").0);
            let has = |table| maps.outline.get(&(table, word)).is_some_and(|word| word & bit != 0);
            match (has(OutlineTable::ListedIpv4), has(OutlineTable::DeniedIpv4)) {
                (false, _) => assert!(longest.is_none(), "{address} has a rule and is not in the outline"),
                (true, true) => assert_eq!(found, Standing::Denied, "{address}"),
                (true, false) => {}
            }
            found
        }
    }

    impl RuleSink for Trie {
        fn set(&mut self, network: Network, rule: Rule) -> Result<(), DatapathError> {
            self.0.lock().expect("no panic").rules.insert(network, rule);
            Ok(())
        }

        fn remove(&mut self, network: Network) -> Result<(), DatapathError> {
            self.0.lock().expect("no panic").rules.remove(&network);
            Ok(())
        }

        fn set_word(&mut self, table: OutlineTable, word: u32, value: u64) -> Result<(), DatapathError> {
            self.0.lock().expect("no panic").outline.insert((table, word), value);
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
        (ListBook::new(Box::new(trie.clone()), 7), trie)
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
    fn what_is_removed_is_counted_and_the_rest_kept() {
        let (mut book, trie) = book();
        let (here, file) = (network("198.18.5.0/24"), Origin::File("a".into()));
        book.insert(here, item(ListName::Deny, FOREVER)).expect("room");
        book.insert(here, item(ListName::Allow, FOREVER)).expect("room");
        book.insert(here, Item { origin: file.clone(), ..item(ListName::Deny, FOREVER) }).expect("room");
        assert_eq!(book.remove(here, ListName::Deny, |origin| *origin == Origin::Manual).expect("written"), 1);
        let left: Vec<_> = book.entries_covering(here).into_iter().map(|(_, item)| (item.list, item.origin)).collect();
        assert_eq!(left, [(ListName::Allow, Origin::Manual), (ListName::Deny, file)]);
        assert_eq!(book.remove(here, ListName::Deny, |_| true).expect("written"), 1);
        assert_eq!(book.remove(here, ListName::Allow, |_| true).expect("written"), 1);
        assert_eq!(book.remove(here, ListName::Allow, |_| true).expect("written"), 0);
        assert!(book.is_empty() && trie.standing("198.18.5.7", 1) == Standing::Ordinary);
    }

    #[test]
    fn a_block_tells_whether_there_was_one() {
        let (mut book, _) = book();
        let here = network("198.18.5.0/24");
        assert!(!book.block(here, 0).expect("nothing to do"));
        assert!(book.is_empty(), "lifting what is not there leaves nothing behind");
        assert!(!book.block(here, 100).expect("room"));
        assert!(book.block(here, 200).expect("room"));
        assert!(book.block(here, 0).expect("written"));
        assert!(book.is_empty());
        book.insert(here, item(ListName::Deny, FOREVER)).expect("room");
        assert!(!book.block(here, 0).expect("written"));
    }

    #[test]
    fn entries_are_found_by_what_they_cover_and_in_order() {
        let (mut book, _) = book();
        let generation = book.generation();
        let before = generation.load(Ordering::Relaxed);
        let networks = ["198.18.0.0/16", "198.18.5.0/24", "198.18.5.7", "203.0.113.0/24"].map(network);
        for (network, list) in
            networks.into_iter().zip([ListName::Deny, ListName::Allow, ListName::Deny, ListName::Deny])
        {
            book.insert(network, item(list, FOREVER)).expect("room");
        }
        assert_eq!(generation.load(Ordering::Relaxed), before + 4);
        let covering: Vec<Network> =
            book.entries_covering(network("198.18.5.7")).iter().map(|(network, _)| *network).collect();
        assert_eq!(covering, networks[..3]);
        assert!(book.is_allowed(network("198.18.5.9")) && !book.is_allowed(network("198.18.6.9")));
        assert!(!book.is_allowed(network("203.0.113.1")));
        let after =
            |last, most| book.entries_after(last, most).into_iter().map(|(network, _)| network).collect::<Vec<_>>();
        assert_eq!(after(None, 2), networks[..2]);
        assert_eq!(after(Some(networks[1]), 9), networks[2..]);
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
        assert!(book.is_empty() && trie.0.lock().expect("no panic").rules.is_empty());
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
        let first = vec![network("198.18.2.0/24"), network("198.18.1.1"), network("198.18.1.1")];
        book.replace(ListName::Deny, &file, first).expect("room");
        let second = vec![network("198.18.3.0/24")];
        book.replace(ListName::Deny, &file, second).expect("room");
        assert_eq!(trie.standing("198.18.1.1", 1), Standing::Denied);
        assert_eq!(trie.standing("198.18.2.1", 1), Standing::Ordinary);
        assert_eq!(trie.standing("198.18.3.1", 1), Standing::Denied);
    }

    /// Has room for this many rules.
    struct Small(Trie, usize);

    impl RuleSink for Small {
        fn set(&mut self, network: Network, rule: Rule) -> Result<(), DatapathError> {
            self.1 = self.1.checked_sub(1).ok_or(DatapathError::Missing("room"))?;
            self.0.set(network, rule)
        }

        fn remove(&mut self, network: Network) -> Result<(), DatapathError> {
            self.0.remove(network)
        }

        fn set_word(&mut self, table: OutlineTable, word: u32, value: u64) -> Result<(), DatapathError> {
            self.0.set_word(table, word, value)
        }
    }

    #[test]
    fn what_could_be_written_is_in_force() {
        let trie = Trie::default();
        let mut book = ListBook::new(Box::new(Small(trie.clone(), 2)), 7);
        let flags = book.flags();
        let networks = ["198.18.1.0/24", "198.18.2.7", "198.18.3.0/24"].map(network).to_vec();
        assert!(book.replace(ListName::Deny, &Origin::Manual, networks).is_err());
        assert_eq!(trie.standing("198.18.1.9", 1), Standing::Denied);
        assert_eq!(trie.standing("198.18.2.7", 1), Standing::Denied);
        assert_eq!(trie.standing("198.18.3.9", 1), Standing::Ordinary);
        assert_ne!(flags.load(Ordering::Relaxed) & flag::RULES, 0);
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
            for (network, rule) in &trie.0.lock().expect("no panic").rules {
                prop_assert_eq!(rule.is_whole != 0, network.is_cached_whole() && book.is_whole(*network));
            }
            prop_assert_eq!(book.cells.len(), trie.0.lock().expect("no panic").rules.len());
        }
    }
}

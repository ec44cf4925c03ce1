//! What the lists hold of one network. There may be half a million: nearly all have a single entry of a file, which is kept
//! in a few bytes.

use tcpguard_common::abi::rule::{FOREVER, Rule};

use super::{ListName, Origin};

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
pub(super) struct Cell {
    items: Items,
    /// When its block ends, in jiffies; 0 if it is not blocked.
    pub blocked_until: u64,
    written: Written,
}

enum Items {
    /// One entry without a reason that does not expire.
    Plain(ListName, Origin),
    Any(Vec<Item>),
}

/// The rule that was written to the datapath.
#[derive(Default)]
enum Written {
    #[default]
    Nothing,
    /// The network is denied until the lists change, and neither allowed nor blocked.
    Denied {
        is_whole: bool,
    },
    Other(Box<Rule>),
}

impl Default for Items {
    fn default() -> Self {
        Self::Any(Vec::new())
    }
}

impl Items {
    fn of(items: Vec<Item>) -> Self {
        match items.as_slice() {
            [Item { list, origin, reason: None, until: FOREVER }] => Self::Plain(*list, origin.clone()),
            _ => Self::Any(items),
        }
    }
}

impl Cell {
    /// Returns copies of all entries.
    pub fn items(&self) -> Vec<Item> {
        match &self.items {
            Items::Plain(list, origin) => {
                vec![Item { list: *list, origin: origin.clone(), reason: None, until: FOREVER }]
            }
            Items::Any(items) => items.clone(),
        }
    }

    /// Returns whether an entry of this list has an origin that matches.
    pub fn has(&self, list: ListName, is_wanted: impl Fn(&Origin) -> bool) -> bool {
        match &self.items {
            Items::Plain(of, origin) => *of == list && is_wanted(origin),
            Items::Any(items) => items.iter().any(|item| item.list == list && is_wanted(&item.origin)),
        }
    }

    /// Returns when its entries and its block end; those that do not are left out.
    pub fn ends(&self) -> Vec<u64> {
        let items = match &self.items {
            Items::Plain(..) => &[][..],
            Items::Any(items) => items,
        };
        let ends = items.iter().map(|item| item.until).chain([self.blocked_until]);
        ends.filter(|until| ![0, FOREVER].contains(until)).collect()
    }

    /// Adds an entry, or replaces the one of the same list and origin; returns when that would have ended.
    pub fn put(&mut self, item: Item) -> u64 {
        let is_plain = item.reason.is_none() && item.until == FOREVER;
        match &self.items {
            Items::Any(items) if items.is_empty() && is_plain => self.items = Items::Plain(item.list, item.origin),
            Items::Plain(list, origin) if is_plain && *list == item.list && *origin == item.origin => {}
            _ => return self.change(|items| put(items, item)),
        }
        FOREVER
    }

    /// Changes the entries.
    pub fn change<T>(&mut self, change: impl FnOnce(&mut Vec<Item>) -> T) -> T {
        let mut items = match std::mem::take(&mut self.items) {
            Items::Plain(list, origin) => vec![Item { list, origin, reason: None, until: FOREVER }],
            Items::Any(items) => items,
        };
        let result = change(&mut items);
        self.items = Items::of(items);
        result
    }

    /// Returns whether it has no entries, and no block.
    pub fn is_empty(&self) -> bool {
        matches!(&self.items, Items::Any(items) if items.is_empty()) && self.blocked_until == 0
    }

    /// Returns the rule that follows from the entries and the block of this network alone.
    pub fn own(&self) -> Rule {
        let mut rule = Rule { blocked_until: self.blocked_until, ..Rule::default() };
        let mut add = |list, until| match list {
            ListName::Allow => rule.is_allowed = 1,
            ListName::Deny => rule.denied_until = rule.denied_until.max(until),
        };
        match &self.items {
            Items::Plain(list, _) => add(*list, FOREVER),
            Items::Any(items) => items.iter().for_each(|item| add(item.list, item.until)),
        }
        rule
    }

    /// Returns the rule that was written to the datapath.
    pub fn written(&self) -> Option<Rule> {
        match &self.written {
            Written::Nothing => None,
            Written::Denied { is_whole } => Some(denied(*is_whole)),
            Written::Other(rule) => Some(**rule),
        }
    }

    /// Notes the rule that was written.
    pub fn note_written(&mut self, rule: Rule) {
        let is_whole = rule.is_whole != 0;
        self.written =
            if rule == denied(is_whole) { Written::Denied { is_whole } } else { Written::Other(Box::new(rule)) };
    }
}

fn put(items: &mut Vec<Item>, item: Item) -> u64 {
    match items.iter_mut().find(|other| other.list == item.list && other.origin == item.origin) {
        Some(same) => std::mem::replace(same, item).until,
        None => {
            items.push(item);
            FOREVER
        }
    }
}

fn denied(is_whole: bool) -> Rule {
    Rule { denied_until: FOREVER, is_whole: is_whole.into(), ..Rule::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(list: ListName, reason: Option<&str>, until: u64) -> Item {
        Item { list, origin: Origin::File("a".into()), reason: reason.map(Into::into), until }
    }

    #[test]
    fn entries_stay_what_they_are() {
        for items in [
            vec![],
            vec![item(ListName::Deny, None, FOREVER)],
            vec![item(ListName::Allow, None, FOREVER)],
            vec![item(ListName::Deny, Some("why"), FOREVER)],
            vec![item(ListName::Deny, None, 7)],
            vec![item(ListName::Deny, None, FOREVER), item(ListName::Allow, None, FOREVER)],
        ] {
            let mut cell = Cell::default();
            cell.change(|own| own.clone_from(&items));
            assert_eq!(cell.items(), items);
            assert_eq!(cell.is_empty(), items.is_empty());
            assert_eq!(cell.change(|own| own.len()), items.len());
            assert_eq!(cell.items(), items);
            let is_ours = |origin: &Origin| *origin == Origin::File("a".into());
            for list in [ListName::Allow, ListName::Deny] {
                assert_eq!(cell.has(list, is_ours), items.iter().any(|item| item.list == list));
                assert!(!cell.has(list, |origin| *origin == Origin::Manual));
            }
        }
    }

    #[test]
    fn entries_of_two_origins_stand_beside_each_other() {
        let mut cell = Cell::default();
        let other = Item { origin: Origin::File("b".into()), ..item(ListName::Deny, None, FOREVER) };
        cell.put(item(ListName::Deny, None, FOREVER));
        cell.put(other.clone());
        assert_eq!(cell.items(), [item(ListName::Deny, None, FOREVER), other]);
        let mut cell = Cell::default();
        cell.put(item(ListName::Deny, None, FOREVER));
        cell.put(item(ListName::Allow, None, FOREVER));
        assert_eq!(cell.items(), [item(ListName::Deny, None, FOREVER), item(ListName::Allow, None, FOREVER)]);
    }

    #[test]
    fn an_entry_replaces_the_one_of_the_same_origin() {
        let mut cell = Cell::default();
        let plain = || item(ListName::Deny, None, FOREVER);
        assert_eq!([cell.put(plain()), cell.put(plain())], [FOREVER; 2]);
        assert_eq!(cell.items(), [plain()]);
        assert_eq!(cell.put(item(ListName::Deny, Some("why"), 9)), FOREVER);
        assert_eq!(cell.put(plain()), 9);
        assert_eq!(cell.items(), [plain()]);
        let manual = Item { origin: Origin::Manual, ..plain() };
        assert_eq!([cell.put(manual.clone()), cell.put(item(ListName::Allow, None, FOREVER))], [FOREVER; 2]);
        assert_eq!(cell.items(), [plain(), manual, item(ListName::Allow, None, FOREVER)]);
    }

    #[test]
    fn what_ends_is_listed() {
        let mut cell = Cell::default();
        cell.change(|items| items.push(item(ListName::Deny, None, FOREVER)));
        assert!(cell.ends().is_empty());
        cell.change(|items| items.push(item(ListName::Allow, None, 9)));
        cell.blocked_until = 5;
        assert_eq!(cell.ends(), [9, 5]);
        assert_eq!(cell.own(), Rule { is_allowed: 1, is_whole: 0, denied_until: FOREVER, blocked_until: 5 });
    }

    #[test]
    fn a_block_alone_is_not_nothing() {
        let cell = Cell { blocked_until: 5, ..Cell::default() };
        assert!(!cell.is_empty());
    }

    #[test]
    fn the_rule_that_was_written_is_remembered() {
        let mut cell = Cell::default();
        assert_eq!(cell.written(), None);
        for rule in [denied(true), denied(false), Rule { blocked_until: 3, ..denied(false) }, Rule::default()] {
            cell.note_written(rule);
            assert_eq!(cell.written(), Some(rule));
        }
    }

    #[test]
    fn a_network_of_a_file_takes_little_memory() {
        assert!(size_of::<Cell>() <= 56, "{} bytes", size_of::<Cell>());
    }
}

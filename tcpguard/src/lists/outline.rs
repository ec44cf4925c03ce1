//! The outline of the lists, which spares the datapath most look-ups ([`tcpguard_common::abi::outline`]).

use tcpguard_common::abi::{
    lease::flag,
    outline::{IPV4_WORDS, IPV6_WORDS, ipv4_place, ipv6_place, level},
    rule::{CACHED_LENGTHS, FOREVER, Rule},
};

use crate::{
    datapath::{DatapathError, maps::OutlineTable},
    network::Network,
};

/// The number of networks added to the filter of IPv6 networks, as a multiple of those that have a rule, from which on it is
/// built anew: networks are not taken out of it one by one.
const WORN_AT: usize = 2;
/// So many may be added at least.
const LEAST_WORN: usize = 65_536;

/// Writes one word of a table.
pub(super) type WriteWord<'a> = &'a mut dyn FnMut(OutlineTable, u32, u64) -> Result<(), DatapathError>;

/// What the datapath's tables hold.
pub(super) struct Outline {
    key: u64,
    listed: Box<[u64]>,
    denied: Box<[u64]>,
    ipv6: Box<[u64]>,
    /// The flags that belong to the IPv6 networks in the filter.
    flags: u64,
    /// Networks added to the filter since it was built.
    added: usize,
}

impl Outline {
    /// Creates the outline of empty lists. `key` is the datapath's hash key.
    pub fn new(key: u64) -> Self {
        let zeros = |words| vec![0; words].into_boxed_slice();
        Self { key, listed: zeros(IPV4_WORDS), denied: zeros(IPV4_WORDS), ipv6: zeros(IPV6_WORDS), flags: 0, added: 0 }
    }

    /// Returns the flags of the lease that tell what IPv6 networks have rules.
    pub const fn flags(&self) -> u64 {
        self.flags
    }

    /// Returns whether the filter of IPv6 networks holds so much that no longer has a rule, of `rules` in all, that it is
    /// to be built anew.
    pub const fn is_worn(&self, rules: usize) -> bool {
        self.added > LEAST_WORN + WORN_AT * rules
    }

    /// Updates the part of the outline that [`Outline::affected`] returned. `rules` are all rules of networks that contain
    /// that part or lie within it, the wider ones before those that they contain.
    pub fn update(
        &mut self,
        part: Network,
        rules: impl Iterator<Item = (Network, Rule)>,
        write: WriteWord<'_>,
    ) -> Result<(), DatapathError> {
        let mut ipv4 = part.ipv4_blocks().map(Painting::new);
        let mut ipv6 = if part == Network::EVERYTHING { Ipv6Filter::empty() } else { Ipv6Filter::Added(Vec::new()) };
        let mut flags = if part == Network::EVERYTHING { 0 } else { self.flags };
        for (network, rule) in rules {
            if let (Some(painting), Some(blocks)) = (&mut ipv4, network.ipv4_blocks()) {
                painting.paint(blocks, is_denied_whole(network, &rule));
            }
            if network.is_within_ipv4() {
                continue;
            }
            match level(network.length()) {
                Some((length, flag)) => {
                    flags |= flag;
                    ipv6.add(ipv6_place(self.key, network.first(), length));
                }
                None => flags |= flag::LISTED_WIDE,
            }
        }
        if let Some(painting) = ipv4 {
            painting.write(OutlineTable::ListedIpv4, &mut self.listed, write)?;
            painting.write(OutlineTable::DeniedIpv4, &mut self.denied, write)?;
        }
        self.added = ipv6.write(&mut self.ipv6, self.added, write)?;
        // Not before the filter holds what they lead to.
        self.flags = flags;
        Ok(())
    }

    /// Returns the part of the outline that a change of `network` affects: whole /24s.
    pub fn affected(network: Network) -> Network {
        if network.is_within_ipv4() { network.widened(network.length().min(CACHED_LENGTHS.0)) } else { network }
    }
}

/// Returns whether every address of a network, apart from those with a rule of their own, is denied for good.
fn is_denied_whole(network: Network, rule: &Rule) -> bool {
    network.length() <= CACHED_LENGTHS.0 && rule.is_allowed == 0 && rule.denied_until == FOREVER
}

/// A range of /24s of both tables of IPv4 networks.
struct Painting {
    first: u32,
    last: u32,
    listed: Vec<u64>,
    denied: Vec<u64>,
}

impl Painting {
    fn new((first, last): (u32, u32)) -> Self {
        let words = (last / 64 - first / 64 + 1) as usize;
        Self { first, last, listed: vec![0; words], denied: vec![0; words] }
    }

    /// Paints the /24s of a network over those of the networks that contain it.
    fn paint(&mut self, (first, last): (u32, u32), is_denied: bool) {
        let (first, last) = (first.max(self.first), last.min(self.last));
        if first > last {
            return;
        }
        let start = self.first / 64;
        for word in first / 64..=last / 64 {
            let mask = bits_between(word, first, last);
            let place = (word - start) as usize;
            self.listed[place] |= mask;
            self.denied[place] = if is_denied { self.denied[place] | mask } else { self.denied[place] & !mask };
        }
    }

    /// Writes the words of one table that changed, and notes them in `words`.
    fn write(&self, table: OutlineTable, words: &mut [u64], write: WriteWord<'_>) -> Result<(), DatapathError> {
        let painted = if matches!(table, OutlineTable::ListedIpv4) { &self.listed } else { &self.denied };
        for (word, painted) in (self.first / 64..).zip(painted) {
            let mask = bits_between(word, self.first, self.last);
            replace(table, words, word, |old| old & !mask | painted & mask, write)?;
        }
        Ok(())
    }
}

/// Returns the bits of a word that belong to the /24s from `first` to `last`.
const fn bits_between(word: u32, first: u32, last: u32) -> u64 {
    let from = if word == first / 64 { ipv4_place(first).1 } else { 1 };
    let to = if word == last / 64 { ipv4_place(last).1 } else { 1 << 63 };
    // From the lower bit to the higher one.
    (to - from) | to
}

/// The filter of IPv6 networks.
enum Ipv6Filter {
    /// Built anew, with the number of networks in it.
    New(Vec<u64>, usize),
    /// Places to be added.
    Added(Vec<(u32, u64)>),
}

impl Ipv6Filter {
    fn empty() -> Self {
        Self::New(vec![0; IPV6_WORDS], 0)
    }

    fn add(&mut self, (word, bits): (u32, u64)) {
        match self {
            Self::New(words, number) => {
                words[word as usize] |= bits;
                *number += 1;
            }
            Self::Added(places) => places.push((word, bits)),
        }
    }

    /// Writes the words that changed, and returns the number of networks added since the filter was built.
    fn write(self, words: &mut [u64], before: usize, write: WriteWord<'_>) -> Result<usize, DatapathError> {
        let table = OutlineTable::ListedIpv6;
        match self {
            Self::New(new, number) => {
                for (word, new) in (0..).zip(&new) {
                    replace(table, words, word, |_| *new, write)?;
                }
                Ok(number)
            }
            Self::Added(places) => {
                for (word, bits) in &places {
                    replace(table, words, *word, |old| old | bits, write)?;
                }
                Ok(before + places.len())
            }
        }
    }
}

/// Writes a word if it changes.
fn replace(
    table: OutlineTable,
    words: &mut [u64],
    word: u32,
    change: impl FnOnce(u64) -> u64,
    write: WriteWord<'_>,
) -> Result<(), DatapathError> {
    let old = &mut words[word as usize];
    let new = change(*old);
    if *old != new {
        write(table, word, new)?;
        *old = new;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().expect("a network")
    }

    fn denied(text: &str) -> (Network, Rule) {
        (network(text), Rule { denied_until: FOREVER, ..Rule::default() })
    }

    fn allowed(text: &str) -> (Network, Rule) {
        (network(text), Rule { is_allowed: 1, denied_until: FOREVER, ..Rule::default() })
    }

    /// Updates a part; returns how many words were written.
    fn update(outline: &mut Outline, part: &str, rules: &[(Network, Rule)]) -> usize {
        let part = Outline::affected(network(part));
        update_part(outline, part, rules)
    }

    fn update_part(outline: &mut Outline, part: Network, rules: &[(Network, Rule)]) -> usize {
        let mut written = 0;
        let mut write = |_, _, _| {
            written += 1;
            Ok(())
        };
        outline.update(part, rules.iter().copied(), &mut write).expect("it can be written");
        written
    }

    /// Returns whether the /24 of an address is listed, and whether it is denied.
    fn state(outline: &Outline, address: &str) -> (bool, bool) {
        let (word, bit) = ipv4_place(network(address).ipv4_blocks().expect("an IPv4 address").0);
        (outline.listed[word as usize] & bit != 0, outline.denied[word as usize] & bit != 0)
    }

    #[test]
    fn whole_24s_are_denied_and_parts_of_them_are_listed() {
        let mut outline = Outline::new(1);
        assert_eq!(update(&mut outline, "198.18.0.0/20", &[denied("198.18.0.0/20")]), 2);
        assert_eq!(update(&mut outline, "203.0.113.7", &[denied("203.0.113.7")]), 1);
        assert_eq!(state(&outline, "198.18.15.255"), (true, true));
        assert_eq!(state(&outline, "198.18.16.0"), (false, false));
        assert_eq!(state(&outline, "198.17.255.255"), (false, false));
        assert_eq!(state(&outline, "203.0.113.99"), (true, false));
    }

    #[test]
    fn what_is_inside_a_denied_network_is_looked_up() {
        let mut outline = Outline::new(1);
        let rules = [denied("198.18.0.0/16"), denied("198.18.4.0/22"), allowed("198.18.5.9"), allowed("198.18.9.0/24")];
        update(&mut outline, "198.18.0.0/16", &rules);
        assert_eq!(state(&outline, "198.18.4.0"), (true, true));
        assert_eq!(state(&outline, "198.18.5.1"), (true, false));
        assert_eq!(state(&outline, "198.18.9.1"), (true, false));
        assert_eq!(state(&outline, "198.18.200.1"), (true, true));
        // The allow entries are gone.
        update(&mut outline, "198.18.5.9", &rules[..2]);
        assert_eq!(state(&outline, "198.18.5.1"), (true, true));
        assert_eq!(update(&mut outline, "198.18.0.0/16", &[]), 8, "four words of each table");
        assert_eq!(state(&outline, "198.18.200.1"), (false, false));
    }

    #[test]
    fn what_expires_is_looked_up() {
        let mut outline = Outline::new(1);
        let rule = Rule { denied_until: 5000, blocked_until: FOREVER, ..Rule::default() };
        update(&mut outline, "198.18.0.0/16", &[(network("198.18.0.0/16"), rule)]);
        assert_eq!(state(&outline, "198.18.3.3"), (true, false));
    }

    #[test]
    fn a_network_wider_than_all_of_ipv4_covers_it() {
        let mut outline = Outline::new(1);
        assert_eq!(update(&mut outline, "::/0", &[denied("::/0")]), 2 * IPV4_WORDS);
        assert_eq!(state(&outline, "0.0.0.0"), (true, true));
        assert_eq!(state(&outline, "255.255.255.255"), (true, true));
        assert_eq!(outline.flags(), flag::LISTED_WIDE);
    }

    #[test]
    fn each_length_of_ipv6_has_its_flag() {
        let mut outline = Outline::new(1);
        let mut flags = Vec::new();
        for text in ["2001:db8::1", "2001:db8:1::/56", "2001:db8::/32", "2001::/16", "2000::/3"] {
            update(&mut outline, text, &[denied(text)]);
            flags.push(outline.flags());
        }
        let single: Vec<u64> =
            flags.iter().scan(0, |before, all| Some(all & !std::mem::replace(before, *all))).collect();
        assert_eq!(single, [flag::LISTED_64, flag::LISTED_48, flag::LISTED_32, flag::LISTED_16, flag::LISTED_WIDE]);
        update_part(&mut outline, Network::EVERYTHING, &[denied("2001:db8::/32")]);
        assert_eq!(outline.flags(), flag::LISTED_32);
    }

    #[test]
    fn a_worn_filter_is_built_anew() {
        let mut outline = Outline::new(1);
        let networks = |from: usize| {
            (0..LEAST_WORN + 2).map(move |n| denied(&format!("2001:db8:{:x}:{:x}::/64", from + n / 65_536, n % 65_536)))
        };
        let rules: Vec<_> = networks(0).collect();
        update(&mut outline, "2001:db8::/32", &rules);
        assert!(outline.is_worn(0) && !outline.is_worn(1));
        update_part(&mut outline, Network::EVERYTHING, &rules);
        assert!(outline.is_worn(0) && !outline.is_worn(1), "it holds as many again");
        update_part(&mut outline, Network::EVERYTHING, &rules[..2]);
        assert!(!outline.is_worn(0));
        assert_eq!(bits(&outline), 6);
    }

    /// Returns the number of bits of the filter of IPv6 networks that are set.
    fn bits(outline: &Outline) -> u32 {
        outline.ipv6.iter().map(|word| word.count_ones()).sum()
    }

    #[test]
    fn what_is_added_stays_in_the_filter() {
        let mut outline = Outline::new(1);
        let (first, second) = (denied("2001:db8::/64"), denied("2001:db8:0:7::/64"));
        assert_eq!(update(&mut outline, "2001:db8::/64", &[first]), 1);
        assert_eq!(bits(&outline), 3);
        assert_eq!(update(&mut outline, "2001:db8::/64", &[first]), 0, "once more");
        assert_eq!(bits(&outline), 3);
        update(&mut outline, "2001:db8:0:7::/64", &[second]);
        assert_eq!(bits(&outline), 6);
    }
}

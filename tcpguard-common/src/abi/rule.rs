//! The rule for a network, found by longest-prefix match. The daemon resolves overlapping entries beforehand,
//! so that one lookup decides.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    address::{Address, prefix_mask},
    hash::GOLDEN_RATIO,
};

/// The rule for a network. Times are in jiffies; from that time on, the entry no longer applies.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Rule {
    /// Not 0: the network is allowed, whatever else applies to it.
    pub is_allowed: u32,
    /// Not 0: no other rule applies to any part of the network, so that a result for one address holds for all.
    pub is_whole: u32,
    /// SYNs are dropped until this time because of an operator's entry. [`FOREVER`] if it does not expire.
    pub denied_until: u64,
    /// SYNs of unproven sources are dropped until this time because of a block.
    pub blocked_until: u64,
}

/// The maximum number of rules.
pub const MAX_RULES: u32 = 524_288;

/// The expiry of an entry that does not expire.
pub const FOREVER: u64 = u64::MAX;

/// The effect of a rule on a source at one point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// No entry applies.
    Ordinary,
    /// SYNs always pass.
    Allowed,
    /// SYNs are dropped.
    Denied,
    /// SYNs are dropped unless the source is proven.
    Blocked,
}

impl Rule {
    /// Returns the rule that combines both.
    #[must_use]
    pub const fn joined(&self, other: &Self) -> Self {
        const fn later(left: u64, right: u64) -> u64 {
            if left > right { left } else { right }
        }
        Self {
            is_allowed: self.is_allowed | other.is_allowed,
            is_whole: 0,
            denied_until: later(self.denied_until, other.denied_until),
            blocked_until: later(self.blocked_until, other.blocked_until),
        }
    }

    /// Returns the effect of the rule at this time.
    #[inline(always)]
    pub const fn standing(&self, jiffies: u64) -> Standing {
        if self.is_allowed != 0 {
            Standing::Allowed
        } else if jiffies < self.denied_until {
            Standing::Denied
        } else if jiffies < self.blocked_until {
            Standing::Blocked
        } else {
            Standing::Ordinary
        }
    }
}

/// The result of a lookup, cached for the next SYN of the same source, or of the same network if its rule is
/// whole: a longest-prefix match walks a tree, and a flood repeats the same few lookups.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct CachedRule {
    /// The key: a source, or the first address of a network ([`cache_network`]).
    pub key: Address,
    /// The rule that was found.
    pub rule: Rule,
    /// The generation of the lists in which the rule was found; 0 if the entry is empty.
    pub generation: u64,
    /// Padding to a whole cache line.
    padding: [u64; 2],
}

const _: () = assert!(size_of::<CachedRule>() == 64);

impl CachedRule {
    /// Makes this the entry for `rule`, found for `key`.
    #[inline(always)]
    pub const fn set(&mut self, key: Address, rule: Rule, generation: u64) {
        // The padding is left alone: the compiler would clear it with a call of `memset`, which stores byte by byte.
        self.key = key;
        self.rule = rule;
        self.generation = generation;
    }
}

/// Entries in one map element (32 KiB, the maximum for an element of a per-CPU map).
pub const CACHE_PER_SLAB: usize = 512;
/// The number of map elements.
pub const CACHE_SLABS: usize = 16;
/// The entries of one CPU in one map element.
pub type CacheSlab = [CachedRule; CACHE_PER_SLAB];

/// Prefix lengths of the networks that are cached as one: /24 for IPv4, /64 for IPv6.
pub const CACHED_LENGTHS: (u8, u8) = (96 + 24, 64);

/// Returns the network under which an address is cached if one rule applies to all of it.
#[inline(always)]
pub const fn cache_network(address: Address) -> Address {
    address.masked(prefix_mask(if address.is_ipv4() { CACHED_LENGTHS.0 } else { CACHED_LENGTHS.1 }))
}

/// Returns the element and the entry within it for `key`.
#[inline(always)]
pub const fn cache_position(key: Address) -> (u32, usize) {
    let [high, low] = key.words();
    let hash = (high ^ low.rotate_left(29)).wrapping_mul(GOLDEN_RATIO) >> 48;
    ((hash as usize / CACHE_PER_SLAB % CACHE_SLABS) as u32, hash as usize % CACHE_PER_SLAB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allowed_wins_and_denied_goes_before_suspended() {
        let all = Rule { is_allowed: 1, is_whole: 0, denied_until: FOREVER, blocked_until: FOREVER };
        assert_eq!(all.standing(5), Standing::Allowed);
        assert_eq!(Rule { is_allowed: 0, ..all }.standing(5), Standing::Denied);
        assert_eq!(Rule { is_allowed: 0, denied_until: 5, ..all }.standing(5), Standing::Blocked);
        assert_eq!(Rule { blocked_until: 5, ..Rule::default() }.standing(5), Standing::Ordinary);
        assert_eq!(Rule { blocked_until: 5, ..Rule::default() }.standing(4), Standing::Blocked);
    }

    #[test]
    fn what_is_joined_applies_as_long_as_either() {
        let rule =
            |is_allowed, denied_until, blocked_until| Rule { is_allowed, is_whole: 1, denied_until, blocked_until };
        let joined = Rule { is_allowed: 3, is_whole: 0, denied_until: 9, blocked_until: 8 };
        assert_eq!(rule(1, 5, 8).joined(&rule(3, 9, 2)), joined);
        assert_eq!(rule(2, 9, 2).joined(&rule(1, 5, 8)), joined);
        assert_eq!(rule(0, 9, 9).joined(&rule(0, 9, 9)).denied_until, 9);
    }

    #[test]
    fn an_entry_is_what_was_found() {
        let (key, rule) = (Address::from_words([1, 2]), Rule { denied_until: 5, ..Rule::default() });
        let mut cached = CachedRule::default();
        cached.set(key, rule, 7);
        assert_eq!((cached.key, cached.rule, cached.generation), (key, rule, 7));
    }

    #[test]
    fn networks_are_cached_by_24_and_64_bits() {
        let network = |text: &str| {
            let address: core::net::IpAddr = text.parse().expect("an address");
            cache_network(address.into()).to_string()
        };
        assert_eq!(network("198.18.3.255"), "198.18.3.0");
        assert_eq!(network("2001:db8:1:2:ffff::1"), "2001:db8:1:2::");
    }

    #[test]
    fn addresses_of_one_network_use_the_whole_cache() {
        for high in [u64::MAX, 0x2001_0db8_ffff_ffff] {
            let places: std::collections::HashSet<_> =
                (0..4096_u64).map(|low| cache_position(Address::from_words([high.to_be(), low.to_be()]))).collect();
            assert!(places.len() > 1500, "{} places", places.len());
        }
    }

    #[test]
    fn neighbouring_networks_use_the_whole_cache() {
        let mut uses = vec![0_u32; CACHE_SLABS * CACHE_PER_SLAB];
        for number in 0..65_536_u32 {
            let ipv4 = Address::from(core::net::IpAddr::from((0x0a00_0000 | number << 8).to_be_bytes()));
            let ipv6 = Address::from_words([u64::from_be(0x2001_0db8_0000_0000 | u64::from(number)), 0]);
            for key in [ipv4, ipv6] {
                let (slab, entry) = cache_position(key);
                uses[slab as usize * CACHE_PER_SLAB + entry] += 1;
            }
        }
        // 16 keys for each entry on average.
        assert!(uses.iter().filter(|uses| **uses == 0).count() < uses.len() / 50);
        assert!(uses.iter().all(|uses| *uses < 80), "{:?}", uses.iter().max());
    }
}

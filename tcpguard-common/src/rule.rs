//! What the lists say of a network: looked up by the longest prefix that matches. The daemon has already
//! resolved what several entries say of the same address, so that one look-up decides.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::address::{Address, prefix_mask};

/// What holds for a network. Times are jiffies: from then on it does not hold any more.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Rule {
    /// Not 0: it is always let in, whatever else is said of it.
    pub is_allowed: u32,
    /// Not 0: nothing else is said of any part of it, so that what holds for one address holds for all.
    pub is_whole: u32,
    /// Until when its SYNs are dropped, by an operator's word. [`FOREVER`] for no end.
    pub denied_until: u64,
    /// Until when the SYNs of its unproven sources are dropped, by judgement.
    pub blocked_until: u64,
}

/// No end.
pub const FOREVER: u64 = u64::MAX;

/// What a rule says of a source at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing.
    Ordinary,
    /// It is always let in.
    Allowed,
    /// It is not let in.
    Denied,
    /// It is not let in, unless it has completed a handshake.
    Suspended,
}

impl Rule {
    /// What holds where both are said.
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

    /// What it says at this moment.
    #[inline(always)]
    pub const fn standing(&self, jiffies: u64) -> Standing {
        if self.is_allowed != 0 {
            Standing::Allowed
        } else if jiffies < self.denied_until {
            Standing::Denied
        } else if jiffies < self.blocked_until {
            Standing::Suspended
        } else {
            Standing::Ordinary
        }
    }
}

/// What a look-up found, remembered for the next SYN of the same source, or of the same network where that
/// is whole: the longest prefix takes a walk through a tree, and a flood comes from the same few again.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct CachedRule {
    /// Whom it holds for: a source, or the first address of a network ([`cache_network`]).
    pub key: Address,
    /// The rule.
    pub rule: Rule,
    /// The generation of the lists that it was found in; 0 for none.
    pub generation: u64,
    /// Keeps entries to whole cache lines.
    padding: [u64; 2],
}

const _: () = assert!(size_of::<CachedRule>() == 64);

impl CachedRule {
    /// That this rule was found for `key`.
    #[inline(always)]
    pub const fn new(key: Address, rule: Rule, generation: u64) -> Self {
        Self { key, rule, generation, padding: [0; 2] }
    }
}

/// Entries in one map element (32 KiB, the most that a per-CPU element may have).
pub const CACHE_PER_SLAB: usize = 512;
/// Map elements.
pub const CACHE_SLABS: usize = 16;
/// One CPU's entries as they stand in a map element.
pub type CacheSlab = [CachedRule; CACHE_PER_SLAB];

/// Networks that are remembered as one: /24 for IPv4, /64 for IPv6.
pub const CACHED_LENGTHS: (u8, u8) = (96 + 24, 64);

/// The network that an address is remembered under, where a rule holds for all of it.
#[inline(always)]
pub const fn cache_network(address: Address) -> Address {
    address.masked(prefix_mask(if address.is_ipv4() { CACHED_LENGTHS.0 } else { CACHED_LENGTHS.1 }))
}

/// The element and the entry within it for this key.
#[inline(always)]
pub const fn cache_position(key: Address) -> (u32, usize) {
    let [high, low] = key.words();
    let hash = (high ^ low.rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
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
        assert_eq!(Rule { is_allowed: 0, denied_until: 5, ..all }.standing(5), Standing::Suspended);
        assert_eq!(Rule { blocked_until: 5, ..Rule::default() }.standing(5), Standing::Ordinary);
        assert_eq!(Rule { blocked_until: 5, ..Rule::default() }.standing(4), Standing::Suspended);
    }
}

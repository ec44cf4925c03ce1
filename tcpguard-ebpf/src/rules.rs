//! Rules: the allow, deny and block entries of networks, as the daemon resolved them.

use aya_ebpf::{
    btf_maps::{Array, LpmTrie, lpm_trie::Key},
    macros::btf_map,
};
use tcpguard_common::{
    abi::{
        lease::flag,
        rule::{CACHE_SLABS, CacheSlab, CachedRule, Rule, Standing, cache_network, cache_position},
    },
    address::Address,
};

use crate::{
    by_cpu,
    lease::Lease,
    outline::{self, Outline},
    time::Now,
};

/// Resolved by the daemon. There is room for [`tcpguard_common::abi::rule::MAX_RULES`]; unused room costs nothing.
#[btf_map]
static RULES: LpmTrie<Address, Rule, 524_288> = LpmTrie::new();

#[btf_map]
static RULE_CACHE: Array<CacheSlab, CACHE_SLABS> = Array::new();

/// Returns the standing of an address. The rules are looked up only if the outline tells that one may apply.
#[inline(always)]
pub fn standing_of(address: Address, lease: Lease, now: Now) -> Standing {
    if !lease.has(flag::RULES) {
        return Standing::Ordinary;
    }
    match outline::of(address, lease) {
        Outline::Outside => Standing::Ordinary,
        Outline::Denied => Standing::Denied,
        Outline::Inside => {
            let [high, low] = address.words();
            standing(high, low, lease.generation(), now.jiffies)
        }
    }
}

/// Returns the standing of the source whose address consists of these two words, in this generation of the lists. It is
/// not inlined: the path without lists would pay for the registers that it needs.
#[inline(never)]
fn standing(high: u64, low: u64, generation: u64, jiffies: u64) -> Standing {
    find(Address::from_words([high, low]), generation).standing(jiffies)
}

#[inline(always)]
fn find(source: Address, generation: u64) -> Rule {
    let network = cache_network(source);
    if let Some(cached) = cached(network)
        && cached.generation == generation
        && (cached.key == source || cached.key == network && cached.rule.is_whole != 0)
    {
        return cached.rule;
    }
    // Sources without a rule are not cached: random sources would displace those with one.
    let Some(rule) = RULES.get(&Key::new(128, source)).copied() else { return Rule::default() };
    if let Some(cached) = cached(network) {
        let key = if rule.is_whole != 0 { network } else { source };
        cached.set(key, rule, generation);
    }
    rule
}

/// Returns the cell that caches the rule of a network, or of one of its addresses.
#[inline(always)]
fn cached<'a>(network: Address) -> Option<&'a mut CachedRule> {
    let (slab, entry) = cache_position(network);
    let slab = by_cpu::element(&RULE_CACHE, slab)?;
    // What another CPU is writing might be read half; our programs that run in an interrupt do not use the cache.
    if slab.is_shared {
        return None;
    }
    Some(&mut slab.value[entry])
}

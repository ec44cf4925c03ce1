//! What the lists say of a source.

use aya_ebpf::{
    btf_maps::{LpmTrie, PerCpuArray, lpm_trie::Key},
    macros::btf_map,
};
use tcpguard_common::{
    address::Address,
    rule::{CACHE_SLABS, CacheSlab, CachedRule, Rule, Standing, cache_network, cache_position},
};

/// Resolved by the daemon. There is room for [`tcpguard_common::layout::MOST_RULES`]; what is not used
/// costs nothing.
#[btf_map]
static RULES: LpmTrie<Address, Rule, 524_288> = LpmTrie::new();

#[btf_map]
static RULE_CACHE: PerCpuArray<CacheSlab, CACHE_SLABS> = PerCpuArray::new();

/// What the lists say of the source whose address has these two words, in this generation of the lists. It is
/// not inlined: the path of those who have no lists would pay for the registers that it needs.
#[inline(never)]
pub fn standing(high: u64, low: u64, generation: u64, jiffies: u64) -> Standing {
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
    // Whoever is not listed is not remembered: random sources would wash out those that are.
    let Some(rule) = RULES.get(&Key::new(128, source)).copied() else { return Rule::default() };
    if let Some(cached) = cached(network) {
        let key = if rule.is_whole != 0 { network } else { source };
        *cached = CachedRule::new(key, rule, generation);
    }
    rule
}

/// The place where a network's rule is remembered, or that of one of its addresses.
#[inline(always)]
fn cached<'a>(network: Address) -> Option<&'a mut CachedRule> {
    let (slab, entry) = cache_position(network);
    let slab = RULE_CACHE.get_ptr_mut(slab)?;
    // SAFETY: the element belongs to this CPU; another of our programs in an interrupt does not use it.
    Some(unsafe { &mut (*slab)[entry] })
}

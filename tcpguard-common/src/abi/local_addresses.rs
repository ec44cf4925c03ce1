//! The host's own addresses, in sets of four: for most addresses, one cache line decides whether a packet is addressed to the
//! host or forwarded by it. An address whose set is full is in another one.

use crate::{address::Address, hash::GOLDEN_RATIO};

/// The number of sets. With two choices for each address there is room for more than 20,000.
pub const SETS: usize = 8192;
/// Addresses per set; a set fits in one cache line.
pub const WAYS: usize = 4;

/// One set as stored in the map. Unused places, which are the last ones, hold the unspecified address.
pub type Set = [Address; WAYS];

/// The maximum number of networks of which the host accepts every address.
pub const MAX_NETWORKS: u32 = 1024;

/// How many addresses may be moved to make room for one.
const MOVES: usize = 16;

/// Returns the set that `address` belongs to, and the one that it is in if that is full.
#[inline(always)]
pub const fn choices(address: Address) -> (u32, u32) {
    let [high, low] = address.words();
    // A bit of a product depends on the lower bits of its factors only: the upper half is brought down and multiplied again.
    let product = u64::from_be(high ^ low).wrapping_mul(GOLDEN_RATIO);
    let hash = (product ^ product >> 32).wrapping_mul(GOLDEN_RATIO);
    ((hash >> 51) as u32 % SETS as u32, (hash >> 38) as u32 % SETS as u32)
}

/// Returns whether `set` contains `address`.
#[inline(always)]
pub fn contains(set: &Set, address: Address) -> bool {
    set.contains(&address)
}

/// Returns whether a set is full, so that addresses that belong to it may be in another one.
#[inline(always)]
pub fn is_full(set: &Set) -> bool {
    let [high, low] = set[WAYS - 1].words();
    high | low != 0
}

/// Adds addresses to `sets`, of which there are [`SETS`]; returns false if there is no room for all of them.
pub fn insert_all(sets: &mut [Set], addresses: impl IntoIterator<Item = Address>) -> bool {
    addresses.into_iter().all(|address| insert(sets, address))
}

fn insert(sets: &mut [Set], mut address: Address) -> bool {
    for turn in 0..MOVES {
        let (first, second) = choices(address);
        if [first, second].iter().any(|set| contains(&sets[*set as usize], address)) {
            return true;
        }
        for set in [first, second] {
            if let Some(place) = sets[set as usize].iter_mut().find(|place| **place == Address::default()) {
                *place = address;
                return true;
            }
        }
        // One of those in the second set moves to its other one: it may belong here only because that was full, which it
        // still is, or have its place here by right.
        let place = &mut sets[second as usize][turn % WAYS];
        address = core::mem::replace(place, address);
    }
    false
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use super::*;

    fn address(value: u32) -> Address {
        Ipv4Addr::from(value).into()
    }

    fn sets(addresses: impl IntoIterator<Item = Address>) -> Option<Vec<Set>> {
        let mut sets = vec![Set::default(); SETS];
        insert_all(&mut sets, addresses).then_some(sets)
    }

    /// Looks an address up like the datapath.
    fn is_found(sets: &[Set], address: Address) -> bool {
        let (first, second) = choices(address);
        let first = &sets[first as usize];
        contains(first, address) || is_full(first) && contains(&sets[second as usize], address)
    }

    fn check(addresses: &[u32]) {
        let sets = sets(addresses.iter().map(|value| address(*value))).expect("there is room");
        assert!(addresses.iter().all(|value| is_found(&sets, address(*value))));
        let held = sets.iter().flatten().filter(|held| **held != Address::default()).count();
        assert_eq!(held, addresses.len());
        for value in 0..20_000 {
            let value = 0xc000_0000 + value * 641;
            assert_eq!(is_found(&sets, address(value)), addresses.contains(&value));
        }
    }

    #[test]
    fn every_address_is_found_and_no_other() {
        check(&(0..200).map(|n| 0x0a00_0000 + n * 77).collect::<Vec<_>>());
        check(&(0..10_000).map(|n| 0x0a00_0000 + n).collect::<Vec<_>>());
        check(&(0..20_000).map(|n: u32| n.wrapping_mul(0x9e37_79b1) | 1).collect::<Vec<_>>());
    }

    #[test]
    fn whole_networks_have_room() {
        for seed in 1..50_u32 {
            // Eighty networks of 256 addresses each, anywhere.
            let first = |n: u32| (n * seed).wrapping_mul(0x9e37_79b1).rotate_left(7) & !0xff | 0x0100;
            let all = (1..=80).flat_map(|n| (0..256).map(move |last| address(first(n) | last)));
            assert!(sets(all).is_some(), "{seed}");
        }
        // Networks that once shared nearly all of their places.
        let all =
            [0, 61, 122, 183, 244].into_iter().flat_map(|c| (0..256).map(move |d| address(0x0a00_0000 | c << 8 | d)));
        assert!(sets(all).is_some());
        let ipv6 = (0..10_000_u64).map(|n| Address::from_words([0x2001_0db8_0000_0001_u64.to_be(), n.to_be()]));
        assert!(sets(ipv6).is_some());
    }

    #[test]
    fn an_address_given_twice_has_one_place() {
        let sets = sets([1, 1, 2].map(address)).expect("there is room");
        assert_eq!(sets.iter().flatten().filter(|held| **held != Address::default()).count(), 2);
    }

    #[test]
    fn most_are_in_the_first_of_their_sets() {
        let sets = sets((0..1000).map(|n| address(0x0a00_0000 + n * 13))).expect("there is room");
        let full = sets.iter().filter(|set| is_full(set)).count();
        assert!(full < 3, "{full} sets are full");
    }

    #[test]
    fn too_many_are_not_cut_short() {
        assert!(sets((0..40_000).map(|n: u32| Ipv4Addr::from(n + 1).into())).is_none());
    }
}

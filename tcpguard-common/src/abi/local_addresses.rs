//! The host's own addresses, in sets of four: one cache line decides whether a packet is addressed to the host
//! or forwarded by it.

use crate::address::Address;

/// The number of sets.
pub const SETS: usize = 256;
/// Addresses per set; a set fits in one cache line.
pub const WAYS: usize = 4;

/// One set as stored in the map. Unused places hold the unspecified address.
pub type Set = [Address; WAYS];

/// Returns the index of the set that `address` belongs to.
#[inline(always)]
pub const fn set(address: Address) -> u32 {
    let [high, low] = address.words();
    // The upper bits of a product depend on every bit of its factors.
    ((high ^ low).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u32
}

/// Returns whether `set` contains `address`.
#[inline(always)]
pub fn contains(set: &Set, address: Address) -> bool {
    set.contains(&address)
}

/// Returns the sets that hold `addresses`, or `None` if a set has no room for all addresses that belong to it.
pub fn sets(addresses: impl IntoIterator<Item = Address>) -> Option<[Set; SETS]> {
    let unspecified = Address::default();
    let mut sets = [[unspecified; WAYS]; SETS];
    for address in addresses {
        let places = &mut sets[set(address) as usize];
        if !contains(places, address) {
            *places.iter_mut().find(|place| **place == unspecified)? = address;
        }
    }
    Some(sets)
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use super::*;

    #[test]
    fn every_address_is_found_and_no_other() {
        let address = |n: u32| Address::from(Ipv4Addr::from(n));
        let sets = sets((0..200).map(|n| address(0x0a00_0000 + n * 77))).expect("there is room");
        for n in 0..20_000 {
            let found = contains(&sets[set(address(0x0a00_0000 + n)) as usize], address(0x0a00_0000 + n));
            assert_eq!(found, n % 77 == 0 && n < 200 * 77, "{n}");
        }
    }

    #[test]
    fn too_many_are_not_cut_short() {
        assert!(sets((0..10_000).map(|n: u32| Ipv4Addr::from(n + 1).into())).is_none());
    }
}

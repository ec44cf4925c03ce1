//! Arrays with a row of elements for each CPU.
//!
//! A per-CPU map of the kernel has a row for each CPU that the machine may ever have, also for those that do not exist: a
//! virtual machine may allow 240. These arrays have one for each CPU that is online when the daemon starts, and another one
//! that all other CPUs share. Small maps are per-CPU maps nevertheless.

use crate::{
    abi::{names::map, port::PORT_SLABS, rule::CACHE_SLABS},
    tracking::{prefix, sketch},
};

/// Such an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByCpu {
    /// The name of the map.
    pub map: &'static str,
    /// The number of elements of one row.
    pub elements: u32,
}

/// All of them.
pub const ALL: [ByCpu; 4] = [
    ByCpu { map: map::SYN_BY_PORT, elements: PORT_SLABS as u32 },
    ByCpu { map: map::RULE_CACHE, elements: CACHE_SLABS as u32 },
    ByCpu { map: map::SKETCH, elements: sketch::SLABS as u32 },
    ByCpu { map: map::PREFIXES, elements: prefix::SLABS as u32 },
];

/// Returns the number of rows where `cpus` CPUs have one of their own.
#[inline(always)]
pub const fn rows(cpus: u32) -> u32 {
    cpus + 1
}

/// Returns the key of the element at `index` in `row`: 0 to `cpus` - 1 for a CPU's own, `cpus` for the shared row. The
/// elements of all rows at one index follow each other, so that they are read at once.
#[inline(always)]
pub const fn key(index: u32, row: u32, cpus: u32) -> u32 {
    index * rows(cpus) + row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_has_a_key_of_its_own() {
        for cpus in [0, 1, 2, 64] {
            let keys = (0..7).flat_map(|index| (0..rows(cpus)).map(move |row| key(index, row, cpus)));
            assert!(keys.eq(0..7 * rows(cpus)));
        }
    }
}

//! The memory that the kernel needs for the maps, and its limit.
//!
//! It is calculated before the maps are created, from their sizes and the kernel's structures (kernel/bpf/arraymap.c,
//! hashtab.c, lpm_trie.c and ringbuf.c of Linux 6.1 to 6.18). Entries that the kernel allocates when they are added are not
//! included: those of lists, of listening addresses and of interfaces.

use std::collections::BTreeMap;

use aya_obj::generated::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, bpf_map_type as kind};
use bytesize::ByteSize;
use tcpguard_common::{
    abi::{by_cpu, names::map},
    tracking::source_table,
};

use super::{DatapathError, DatapathOptions, embedded::object_for, options::Purpose, pins::Expected};
use crate::config::MemoryLimit;

/// The part of the host's memory that the maps may take where the configuration sets no limit.
const DEFAULT_PART: u64 = 4;
/// That part of a small host's memory is less than the defaults take, which it has nevertheless.
const DEFAULT_LEAST: u64 = 128 << 20;

/// The size of a page on most architectures, in bytes.
const PAGE: u64 = 4096;
/// The kernel requires the size of a ring buffer to be a multiple of the page size.
const MIN_RING: u32 = 4096;
/// `struct bpf_array` and `struct bpf_htab`, rounded.
const HEADER: u64 = 512;
/// `struct htab_elem` before the key.
const HASH_ELEMENT: u64 = 48;
/// `struct bucket` of a hash table.
const BUCKET: u64 = 16;
/// The pages of a ring buffer for its positions, and `struct bpf_ringbuf`.
const RING_PAGES: u64 = 3 * PAGE;

/// The memory of the maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MapMemory {
    /// The limit, in bytes.
    pub limit: u64,
    /// What each map takes, the largest first.
    pub maps: Vec<MapSize>,
    /// How many CPUs have a row of their own in the arrays by CPU.
    pub cpus: u32,
}

/// The memory that one map takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapSize {
    /// The name of the map.
    pub map: String,
    /// Its memory, in bytes.
    pub bytes: u64,
}

impl MapMemory {
    /// Returns the memory that a datapath with these options takes on this host.
    ///
    /// # Errors
    /// Returns an error if that is more than the limit.
    pub fn of_options(options: &DatapathOptions) -> Result<Self, DatapathError> {
        plan(&object_for(options.hook)?, options, Purpose::Guarding).map(|(_, memory)| memory)
    }

    /// Sets the number of rows of the arrays by CPU in `maps`: one for each CPU up to the last one that is online, or fewer
    /// if they would take more than the limit.
    ///
    /// # Errors
    /// Returns an error if the maps do not fit with a single row either.
    fn fit(maps: &mut BTreeMap<String, Expected>, host: &Host, limit: MemoryLimit) -> Result<Self, DatapathError> {
        let limit = match limit {
            MemoryLimit::Auto => (host.memory / DEFAULT_PART).max(DEFAULT_LEAST),
            MemoryLimit::AtMost(size) => size.as_u64(),
        };
        let mut cpus = host.online_cpus;
        loop {
            set_rows(maps, cpus);
            let memory = Self::of(maps, host.possible_cpus, limit, cpus);
            if memory.bytes() <= limit {
                return Ok(memory);
            }
            if cpus == 0 {
                let [all, of_sources, limit] = [memory.bytes(), memory.of_sources(), limit].map(ByteSize::b);
                return Err(DatapathError::TooLittleMemory { all, of_sources, limit });
            }
            cpus /= 2;
        }
    }

    fn of(maps: &BTreeMap<String, Expected>, possible_cpus: u32, limit: u64, cpus: u32) -> Self {
        let sizes = maps.iter().map(|(name, map)| MapSize { map: name.clone(), bytes: bytes(map, possible_cpus) });
        let mut maps: Vec<MapSize> = sizes.collect();
        maps.sort_by(|left, right| right.bytes.cmp(&left.bytes).then_with(|| left.map.cmp(&right.map)));
        Self { limit, maps, cpus }
    }

    /// Returns the memory of all maps, in bytes.
    pub fn bytes(&self) -> u64 {
        self.maps.iter().map(|map| map.bytes).sum()
    }

    fn of_sources(&self) -> u64 {
        let of_sources = self.maps.iter().filter(|size| [map::SOURCES, map::SOURCE_TAGS].contains(&size.map.as_str()));
        of_sources.map(|size| size.bytes).sum()
    }
}

/// Returns the maps of `object` in the sizes that they are to be created with, and the memory that they take.
///
/// # Errors
/// Returns an error if that is more than the limit.
pub(super) fn plan(
    object: &[u8],
    options: &DatapathOptions,
    purpose: Purpose,
) -> Result<(BTreeMap<String, Expected>, MapMemory), DatapathError> {
    let mut maps = Expected::of_object(object)?;
    let mut set = |name: &str, entries| {
        if let Some(map) = maps.get_mut(name) {
            map.max_entries = entries;
        }
    };
    let slabs = source_table::slabs(purpose.source_entries(options.max_sources));
    set(map::SOURCE_TAGS, slabs);
    set(map::SOURCES, source_table::places(slabs));
    if options.log_level.is_none() {
        set(map::LOG, MIN_RING);
    }
    let host = Host::read()?;
    let memory = match purpose {
        Purpose::Guarding => MapMemory::fit(&mut maps, &host, options.memory)?,
        // It is used for a moment, and one frame at a time: all CPUs share a row.
        Purpose::Explaining { .. } => {
            set_rows(&mut maps, 0);
            MapMemory::of(&maps, host.possible_cpus, u64::MAX, 0)
        }
    };
    Ok((maps, memory))
}

/// What the memory depends on beside the configuration.
#[derive(Clone, Copy, Debug)]
struct Host {
    /// The CPUs that the machine may ever have.
    possible_cpus: u32,
    /// The number of the last CPU that is online, plus one.
    online_cpus: u32,
    /// The host's memory, in bytes.
    memory: u64,
}

impl Host {
    /// # Errors
    /// Returns an error if the kernel's list of CPUs cannot be read.
    fn read() -> Result<Self, DatapathError> {
        let failed = |(what, source)| DatapathError::Host { what, source };
        let online = aya::util::online_cpus().map_err(failed)?;
        let possible = aya::util::nr_cpus().map_err(failed)?;
        let memory = rustix::system::sysinfo();
        Ok(Self {
            possible_cpus: u32::try_from(possible).unwrap_or(u32::MAX),
            online_cpus: online.into_iter().max().map_or(1, |last| last + 1),
            memory: memory.totalram.saturating_mul(memory.mem_unit.into()),
        })
    }
}

fn set_rows(maps: &mut BTreeMap<String, Expected>, cpus: u32) {
    for by_cpu in by_cpu::ALL {
        if let Some(map) = maps.get_mut(by_cpu.map) {
            map.max_entries = by_cpu.elements * by_cpu::rows(cpus);
        }
    }
}

fn bytes(map: &Expected, possible_cpus: u32) -> u64 {
    let [entries, cpus] = [map.max_entries, possible_cpus].map(u64::from);
    let [key, value] = [map.key_size, map.value_size].map(|size| u64::from(size).next_multiple_of(8));
    match map.map_type {
        of if of == kind::BPF_MAP_TYPE_ARRAY as u32 && map.map_flags & BPF_F_MMAPABLE != 0 => {
            PAGE + (entries * value).next_multiple_of(PAGE)
        }
        of if of == kind::BPF_MAP_TYPE_ARRAY as u32 => HEADER + entries * value,
        of if of == kind::BPF_MAP_TYPE_PERCPU_ARRAY as u32 => HEADER + entries * (8 + cpus * value),
        of if of == kind::BPF_MAP_TYPE_PROG_ARRAY as u32 => HEADER + entries * 8,
        of if of == kind::BPF_MAP_TYPE_HASH as u32 => {
            let is_filled = map.map_flags & BPF_F_NO_PREALLOC == 0;
            let elements = if is_filled { (entries + cpus) * (HASH_ELEMENT + key + value) } else { 0 };
            HEADER + entries.next_power_of_two() * BUCKET + elements
        }
        of if of == kind::BPF_MAP_TYPE_RINGBUF as u32 => entries + RING_PAGES,
        // A trie has only the entries that were added.
        _ => HEADER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Hook;

    const GIB: u64 = 1 << 30;

    fn plan(host: Host, limit: MemoryLimit) -> Result<MapMemory, DatapathError> {
        let mut maps = Expected::of_object(&object_for(Hook::Xdp)?)?;
        MapMemory::fit(&mut maps, &host, limit)
    }

    fn host(possible_cpus: u32, online_cpus: u32, memory: u64) -> Host {
        Host { possible_cpus, online_cpus, memory }
    }

    #[test]
    fn cpus_that_do_not_exist_take_little() {
        let bytes = |possible| plan(host(possible, 4, 64 * GIB), MemoryLimit::Auto).expect("it fits").bytes();
        let each = (bytes(240) - bytes(4)) / 236;
        assert!(each < 200 << 10, "{each} bytes for each CPU that does not exist");
    }

    #[test]
    fn rows_are_shared_where_they_would_not_fit() {
        let cpus = |memory| plan(host(64, 64, memory), MemoryLimit::Auto).map(|memory| memory.cpus);
        assert_eq!(cpus(4 * GIB).ok(), Some(64));
        assert!(cpus(GIB).is_ok_and(|cpus| cpus < 64));
    }

    #[test]
    fn a_small_host_starts_with_the_defaults() {
        assert!(plan(host(2, 2, GIB / 4), MemoryLimit::Auto).is_ok());
    }

    #[test]
    fn a_limit_that_is_too_low_is_refused_with_what_is_needed() {
        let limit = MemoryLimit::AtMost(ByteSize::mib(16));
        let error = plan(host(2, 2, GIB), limit).expect_err("16 MiB are too few").to_string();
        assert!(error.contains("limits.memory allows 16.0 MiB"), "{error}");
        assert!(error.contains("lower limits.max_sources"), "{error}");
    }
}

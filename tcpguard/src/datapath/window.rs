//! Parts of an array, mapped so that many elements are read without a system call for each. The array must have been created
//! with `BPF_F_MMAPABLE`.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use aya::maps::MapData;
use memmap2::{MmapOptions, MmapRaw};
use zerocopy::{FromBytes, IntoBytes};

const WORD: usize = size_of::<u64>();

/// Some consecutive elements of an array, which the kernel and the programs may change at any time.
pub(super) struct Window {
    memory: MmapRaw,
}

impl Window {
    /// Maps `count` elements of `map` of `size` bytes each, from the one at `first` on.
    ///
    /// # Errors
    /// Returns the kernel's error, for instance if the array has fewer elements.
    pub fn open(map: &MapData, size: usize, first: u32, count: u32) -> io::Result<Self> {
        let mut options = MmapOptions::new();
        let memory = options
            .offset(first as u64 * size as u64)
            .len(count as usize * size)
            .map_raw_read_only(map.fd().as_fd().as_raw_fd())?;
        Ok(Self { memory })
    }

    /// Returns a copy of the element at `index` of this window, word by word: each word is as it was at some time.
    pub fn read<V: FromBytes + IntoBytes>(&self, index: usize) -> Option<V> {
        const { assert!(size_of::<V>().is_multiple_of(WORD), "elements consist of words") };
        let start = index * size_of::<V>();
        if start + size_of::<V>() > self.memory.len() {
            return None;
        }
        let mut value = V::new_zeroed();
        for (number, bytes) in value.as_mut_bytes().chunks_exact_mut(WORD).enumerate() {
            // SAFETY: the comparison above shows that the word lies within the mapping, whose start and elements are aligned
            // to words; it may change meanwhile, which a volatile read permits.
            let word = unsafe { self.memory.as_ptr().add(start).cast::<u64>().add(number).read_volatile() };
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        Some(value)
    }
}

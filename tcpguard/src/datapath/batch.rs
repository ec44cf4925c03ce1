//! Reading many entries of a hash map by one system call (bpf(2), `BPF_MAP_LOOKUP_BATCH`), which
//! aya does not offer.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use aya::{Pod, maps::MapData};

const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;

/// `union bpf_attr`, the part for batches.
#[repr(C)]
#[derive(Default)]
struct BatchAttributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    element_flags: u64,
    flags: u64,
}

/// Room for one batch, and where the next one starts.
pub struct BatchReader<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
    /// The kernel's mark for where to go on; `None` at the start of the map.
    cursor: Option<u32>,
}

/// What a batch reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is more.
    More,
    /// That was the last; the next batch starts over.
    Complete,
}

impl<K: Pod + Default, V: Pod + Default> BatchReader<K, V> {
    /// A reader of up to `size` entries at a time.
    pub fn new(size: usize) -> Self {
        Self { keys: vec![K::default(); size], values: vec![V::default(); size], cursor: None }
    }

    /// Reads the next entries and hands each to `visit`.
    ///
    /// # Errors
    /// Where the kernel refuses; `EINVAL` where it knows no batches (before Linux 5.6).
    pub fn next(&mut self, map: &MapData, mut visit: impl FnMut(&K, &V)) -> io::Result<Progress> {
        let (count, progress) = self.fetch(map)?;
        for (key, value) in self.keys.iter().zip(&self.values).take(count) {
            visit(key, value);
        }
        Ok(progress)
    }

    fn fetch(&mut self, map: &MapData) -> io::Result<(usize, Progress)> {
        loop {
            let mut reached = 0u32;
            let mut attributes = BatchAttributes {
                in_batch: self.cursor.as_ref().map_or(0, address),
                out_batch: std::ptr::from_mut(&mut reached) as u64,
                keys: self.keys.as_mut_ptr() as u64,
                values: self.values.as_mut_ptr() as u64,
                count: u32::try_from(self.keys.len()).unwrap_or(u32::MAX),
                map_fd: u32::try_from(map.fd().as_fd().as_raw_fd()).unwrap_or(u32::MAX),
                ..BatchAttributes::default()
            };
            // SAFETY: the attributes point to a cursor and to room for `count` keys and values of the
            // map's sizes (aya has checked them), all of which outlive the call; K and V are plain data.
            let result = unsafe {
                libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_BATCH, &mut attributes, size_of::<BatchAttributes>())
            };
            let error = io::Error::last_os_error();
            let count = attributes.count as usize;
            match (result, error.raw_os_error()) {
                (0, _) => {
                    self.cursor = Some(reached);
                    return Ok((count, Progress::More));
                }
                (_, Some(libc::ENOENT)) => {
                    self.cursor = None;
                    return Ok((count, Progress::Complete));
                }
                // One bucket holds more than there is room for.
                (_, Some(libc::ENOSPC)) => self.grow(),
                _ => return Err(error),
            }
        }
    }

    fn grow(&mut self) {
        let size = self.keys.len() * 2;
        self.keys.resize(size, K::default());
        self.values.resize(size, V::default());
    }
}

fn address<T>(value: &T) -> u64 {
    std::ptr::from_ref(value) as u64
}

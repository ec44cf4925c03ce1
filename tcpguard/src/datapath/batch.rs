//! Batch operations on maps: many entries per system call (bpf(2), `BPF_MAP_LOOKUP_BATCH` and
//! `BPF_MAP_UPDATE_BATCH`), which aya does not offer.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use aya::{Pod, maps::MapData};

const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
/// The number of bytes copied per batch.
const PORTION: usize = 1 << 20;

/// The part of `union bpf_attr` for batch operations.
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

/// Reads a map in batches.
pub struct BatchReader<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
    /// The kernel's position for the next batch; `None` at the start of the map.
    cursor: Option<u32>,
}

/// The progress of a walk after a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More entries may follow.
    More,
    /// The end was reached; the next batch starts over.
    Complete,
}

impl<K: Pod + Default, V: Pod + Default> BatchReader<K, V> {
    /// Creates a reader of up to `size` entries per batch. The size grows if a hash bucket holds more.
    pub fn new(size: usize) -> Self {
        Self { keys: vec![K::default(); size], values: vec![V::default(); size], cursor: None }
    }

    /// Reads the next batch and calls `visit` for each entry.
    ///
    /// # Errors
    /// Returns the kernel's error; `EINVAL` if it does not support batch operations (before Linux 5.6).
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
            let result = unsafe { batch(BPF_MAP_LOOKUP_BATCH, &mut attributes) };
            let count = attributes.count as usize;
            match result.map_err(|error| (error.raw_os_error(), error)) {
                Ok(()) => {
                    self.cursor = Some(reached);
                    return Ok((count, Progress::More));
                }
                Err((Some(libc::ENOENT), _)) => {
                    self.cursor = None;
                    return Ok((count, Progress::Complete));
                }
                // A bucket holds more entries than fit.
                Err((Some(libc::ENOSPC), _)) => self.grow(),
                Err((_, error)) => return Err(error),
            }
        }
    }

    fn grow(&mut self) {
        let size = self.keys.len() * 2;
        self.keys.resize(size, K::default());
        self.values.resize(size, V::default());
    }
}

/// Copies an array of `entries` values of `value_size` bytes to an array of the same size.
///
/// # Errors
/// Returns the kernel's error, for instance if the sizes differ.
pub(super) fn copy_array(from: BorrowedFd<'_>, to: BorrowedFd<'_>, entries: u32, value_size: u32) -> io::Result<()> {
    let portion = (PORTION / value_size.max(1) as usize).clamp(1, entries.max(1) as usize);
    let mut keys = vec![0u32; portion];
    let mut values = vec![0u8; portion * value_size as usize];
    let mut cursor: Option<u32> = None;
    loop {
        let mut reached = 0u32;
        let mut attributes = BatchAttributes {
            in_batch: cursor.as_ref().map_or(0, address),
            out_batch: std::ptr::from_mut(&mut reached) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: u32::try_from(portion).unwrap_or(u32::MAX),
            map_fd: u32::try_from(from.as_raw_fd()).unwrap_or(u32::MAX),
            ..BatchAttributes::default()
        };
        // SAFETY: the attributes point to a cursor and to room for `count` keys of an array and values of
        // `value_size` bytes, all of which outlive the call.
        let read = unsafe { batch(BPF_MAP_LOOKUP_BATCH, &mut attributes) };
        let is_last = match read {
            Ok(()) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) => return Err(error),
        };
        if attributes.count > 0 {
            let mut attributes = BatchAttributes {
                in_batch: 0,
                out_batch: 0,
                map_fd: u32::try_from(to.as_raw_fd()).unwrap_or(u32::MAX),
                ..attributes
            };
            // SAFETY: the attributes point to the `count` keys and values that were just read.
            unsafe { batch(BPF_MAP_UPDATE_BATCH, &mut attributes) }?;
        }
        if is_last {
            return Ok(());
        }
        cursor = Some(reached);
    }
}

/// # Safety
/// The attributes must point to valid buffers for everything the command reads and writes.
unsafe fn batch(command: libc::c_long, attributes: &mut BatchAttributes) -> io::Result<()> {
    // SAFETY: see above.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<BatchAttributes>()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn address<T>(value: &T) -> u64 {
    std::ptr::from_ref(value) as u64
}

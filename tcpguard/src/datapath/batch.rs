//! Batch operations on maps: many entries per system call (bpf(2), `BPF_MAP_LOOKUP_BATCH` and
//! `BPF_MAP_UPDATE_BATCH`), which aya does not offer.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use aya::{Pod, maps::MapData};
use zerocopy::FromBytes;

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

/// Returns `count` elements of an array, from the one at `first` on.
///
/// # Errors
/// Returns the kernel's error, or one if the array has fewer elements.
pub(super) fn read_elements<V: Pod + FromBytes>(map: &MapData, first: u32, count: u32) -> io::Result<Vec<V>> {
    let mut keys = vec![0u32; count as usize];
    let mut values: Vec<V> =
        V::new_vec_zeroed(count as usize).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    let room = Room::of(&mut keys, &mut values);
    // SAFETY: there is room for as many keys of an array and values of the map's size (aya has checked it), which outlive
    // the call; V is plain data. The kernel begins after the element before.
    let read = unsafe { look_up(map.fd().as_fd(), first.checked_sub(1), room) }?;
    if read.count < count { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(values) }
}

/// Copies an array of `entries` values of `value_size` bytes to an array of the same size.
///
/// # Errors
/// Returns the kernel's error, for instance if the sizes differ.
pub(super) fn copy_array(from: BorrowedFd<'_>, to: BorrowedFd<'_>, entries: u32, value_size: u32) -> io::Result<()> {
    let portion = (PORTION / value_size.max(1) as usize).clamp(1, entries.max(1) as usize);
    let mut keys = vec![0u32; portion];
    let mut values = vec![0u8; portion * value_size as usize];
    let mut cursor = None;
    loop {
        let room = Room { count: u32::try_from(portion).unwrap_or(u32::MAX), ..Room::of(&mut keys, &mut values) };
        // SAFETY: there is room for `portion` keys of an array and values of `value_size` bytes, which outlive the call.
        let read = unsafe { look_up(from, cursor, room) }?;
        if read.count > 0 {
            let mut attributes = room.attributes(to, None);
            attributes.count = read.count;
            // SAFETY: the attributes point to the `count` keys and values that were just read.
            unsafe { batch(BPF_MAP_UPDATE_BATCH, &mut attributes) }?;
        }
        if read.next.is_none() {
            return Ok(());
        }
        cursor = read.next;
    }
}

/// Room for the keys and values of one batch.
#[derive(Clone, Copy)]
struct Room {
    keys: u64,
    values: u64,
    /// How many keys and values there is room for.
    count: u32,
}

impl Room {
    /// Returns room for as many values as there are keys; the caller makes sure that they fit.
    fn of<K, V>(keys: &mut [K], values: &mut [V]) -> Self {
        Self {
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: u32::try_from(keys.len()).unwrap_or(u32::MAX),
        }
    }

    /// Returns the attributes of an operation on `map` that begins at the position `from`, or else at the start.
    fn attributes(self, map: BorrowedFd<'_>, from: Option<&u32>) -> BatchAttributes {
        BatchAttributes {
            in_batch: from.map_or(0, address),
            keys: self.keys,
            values: self.values,
            count: self.count,
            map_fd: u32::try_from(map.as_raw_fd()).unwrap_or(u32::MAX),
            ..BatchAttributes::default()
        }
    }
}

/// What one look-up has read.
struct Read {
    /// How many keys and values.
    count: u32,
    /// The kernel's position for the next batch; `None` at the end of the map.
    next: Option<u32>,
}

/// Reads a batch of a map from the position `from`, or else from its start.
///
/// # Errors
/// Returns the kernel's error, except for the end of the map.
///
/// # Safety
/// `room` must be valid for as many keys and values of the map as it counts.
unsafe fn look_up(map: BorrowedFd<'_>, from: Option<u32>, room: Room) -> io::Result<Read> {
    let mut reached = 0u32;
    let mut attributes =
        BatchAttributes { out_batch: std::ptr::from_mut(&mut reached) as u64, ..room.attributes(map, from.as_ref()) };
    // SAFETY: the attributes point to two positions on the stack, and to the room that the caller vouches for.
    match unsafe { batch(BPF_MAP_LOOKUP_BATCH, &mut attributes) } {
        Ok(()) => Ok(Read { count: attributes.count, next: Some(reached) }),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Read { count: attributes.count, next: None }),
        Err(error) => Err(error),
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

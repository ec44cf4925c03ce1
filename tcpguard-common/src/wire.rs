//! Big-endian fields, and the interface through which all packet bytes are read.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The bytes of a packet, wherever they are stored.
pub trait PacketBytes {
    /// Copies a `T` from `offset` bytes after the start of the packet; `None` if the packet is too short.
    ///
    /// Implementations may rely on `T` having an alignment of at most two bytes and on `offset` being even: an
    /// Ethernet header has 14 bytes, and every header after it a multiple of four.
    fn read<T: FromBytes + Immutable + Copy>(&self, offset: usize) -> Option<T>;
}

impl PacketBytes for [u8] {
    fn read<T: FromBytes + Immutable + Copy>(&self, offset: usize) -> Option<T> {
        T::read_from_prefix(self.get(offset..)?).ok().map(|(value, _)| value)
    }
}

/// A 16-bit big-endian field.
#[repr(transparent)]
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Be16(u16);

impl Be16 {
    /// Returns the value in host byte order.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }

    /// Creates a field from a value in host byte order.
    #[inline(always)]
    pub const fn new(value: u16) -> Self {
        Self(value.to_be())
    }

    /// Creates a field from its two bytes as stored in memory, read as a native integer.
    #[inline(always)]
    pub const fn new_raw(raw: u16) -> Self {
        Self(raw)
    }

    /// Returns the two bytes as stored in memory, read as a native integer.
    #[inline(always)]
    pub const fn raw(self) -> u16 {
        self.0
    }
}

/// A 32-bit big-endian field with an alignment of two bytes, as after an Ethernet header.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
pub struct Be32([Be16; 2]);

impl Be32 {
    /// Returns the value in host byte order.
    #[inline(always)]
    pub const fn get(self) -> u32 {
        ((self.0[0].get() as u32) << 16) | self.0[1].get() as u32
    }
}

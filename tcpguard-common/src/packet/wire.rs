//! Big-endian fields, and the one way to get at a packet's bytes.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A packet's bytes, wherever they are.
pub trait PacketBytes {
    /// Copies a `T` out of the packet at `offset` bytes from its start; `None` where the packet is too short.
    ///
    /// Implementations may rely on `T` being aligned to two bytes at the most and `offset` being
    /// even: an Ethernet header has 14 bytes and every header behind it a multiple of four.
    fn read<T: FromBytes + Immutable + Copy>(&self, offset: usize) -> Option<T>;
}

impl PacketBytes for [u8] {
    fn read<T: FromBytes + Immutable + Copy>(&self, offset: usize) -> Option<T> {
        T::read_from_prefix(self.get(offset..)?).ok().map(|(value, _)| value)
    }
}

/// A 16-bit big-endian field.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Be16(u16);

impl Be16 {
    /// The value in host byte order.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }

    /// From a value in host byte order.
    #[inline(always)]
    pub const fn new(value: u16) -> Self {
        Self(value.to_be())
    }

    /// From two bytes as they stand in memory, as a number.
    #[inline(always)]
    pub const fn new_raw(raw: u16) -> Self {
        Self(raw)
    }

    /// The two bytes as they stand in memory, as a number.
    #[inline(always)]
    pub const fn raw(self) -> u16 {
        self.0
    }
}

/// A 32-bit big-endian field, aligned to two bytes as it is behind an Ethernet header.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
pub struct Be32([Be16; 2]);

impl Be32 {
    /// The value in host byte order.
    #[inline(always)]
    pub const fn get(self) -> u32 {
        ((self.0[0].get() as u32) << 16) | self.0[1].get() as u32
    }
}

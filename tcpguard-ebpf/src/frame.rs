//! The one place that touches packet memory.

use aya_ebpf::programs::XdpContext;
use tcpguard_common::packet::PacketBytes;

/// The frame that the program runs on.
pub struct Frame {
    start: usize,
    end: usize,
}

impl Frame {
    #[inline(always)]
    pub fn of(context: &XdpContext) -> Self {
        Self { start: context.data(), end: context.data_end() }
    }

    /// Overwrites the frame's first bytes; false where it is too short.
    #[inline(always)]
    pub fn write_start(&self, bytes: [u8; 8]) -> bool {
        if self.start + bytes.len() > self.end {
            return false;
        }
        // SAFETY: the comparison above proves to the verifier that the bytes lie within the frame.
        unsafe { core::ptr::write_unaligned(self.start as *mut [u8; 8], bytes) };
        true
    }
}

impl PacketBytes for Frame {
    #[inline(always)]
    fn read<T: Copy>(&self, offset: usize) -> Option<T> {
        let at = self.start + offset;
        if at + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: the comparison above proves to the verifier that the bytes lie within the frame;
        // frames start at an even address, offsets are even and T is aligned to two bytes at most
        // (the contract of PacketBytes); and T, by its bound there, is valid whatever the bytes.
        Some(unsafe { *(at as *const T) })
    }
}

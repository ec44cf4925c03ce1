//! The one place that touches packet memory.

use aya_ebpf::programs::XdpContext;
use tcpguard_common::wire::{Be16, PacketBytes};

use crate::hook::{self, Context};

/// The frame that the program runs on.
pub struct Frame {
    start: usize,
    end: usize,
}

impl Frame {
    #[inline(always)]
    pub fn of(context: &Context) -> Self {
        Self { start: context.data(), end: context.data_end() }
    }

    /// A request of the daemon, which runs the program itself.
    #[inline(always)]
    pub fn of_request(context: &XdpContext) -> Self {
        Self { start: context.data(), end: context.data_end() }
    }

    /// Returns the frame with this length, truncated or extended; `None` if the driver has no room.
    #[inline(always)]
    pub fn resized(self, context: &Context, length: usize) -> Option<Self> {
        let delta = length as isize - (self.end - self.start) as isize;
        hook::resize(context, length, delta).then(|| Self::of(context))
    }

    /// Overwrites words at an even offset; `None` if the frame is too short.
    #[inline(always)]
    pub fn write<const WORDS: usize>(&self, offset: usize, words: [Be16; WORDS]) -> Option<()> {
        let at = self.start + offset;
        if at + 2 * WORDS > self.end {
            return None;
        }
        for (index, word) in words.into_iter().enumerate() {
            // SAFETY: the comparison above proves to the verifier that the bytes lie within the frame; frames
            // start at an even address.
            unsafe { *((at + 2 * index) as *mut Be16) = word };
        }
        Some(())
    }

    /// Overwrites the frame's first bytes; returns false if it is too short.
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

//! What is remembered of one source.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::half_open::HalfOpenWindow;

/// The entry of one source in the source table. Times are jiffies.
///
/// What every SYN changes comes first and fills one cache line: the kernel puts a value of the table 64
/// bytes behind the start of its element, and with this size elements are three lines long.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SourceEntry {
    /// SYNs received, those sent again among them.
    pub syn: u64,
    /// When it last sent a SYN or completed a handshake.
    pub last_seen: u64,
    /// Handshakes completed, by the kernel's word.
    pub completed: u64,
    /// Handshakes that are half open.
    pub half_open: HalfOpenWindow,
    /// Keeps what follows aligned.
    reserved: u32,
    /// SYN-ACKs that the kernel sent to it again.
    pub retried: u64,
    /// Resets received.
    pub resets: u64,
    /// SYNs dropped.
    pub dropped: u64,
    /// SYNs answered with a challenge.
    pub challenged: u64,
    /// When the entry was made.
    pub first_seen: u64,
    /// Keeps elements to whole cache lines.
    padding: [u64; 3],
}

const _: () = assert!(size_of::<SourceEntry>() == 128);

impl SourceEntry {
    /// The entry of a source that is first seen now.
    #[inline(always)]
    pub const fn new(jiffies: u64) -> Self {
        Self {
            syn: 0,
            last_seen: jiffies,
            completed: 0,
            half_open: HalfOpenWindow::EMPTY,
            reserved: 0,
            retried: 0,
            resets: 0,
            dropped: 0,
            challenged: 0,
            first_seen: jiffies,
            padding: [0; 3],
        }
    }
}

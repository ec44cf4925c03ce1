//! What is remembered of one source.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::half_open::HalfOpenWindow;

/// The entry of one source in the source table. Times are jiffies.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SourceEntry {
    /// SYNs received, those sent again among them.
    pub syn: u64,
    /// Handshakes completed, by the kernel's word.
    pub completed: u64,
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
    /// When it last sent a SYN or completed a handshake.
    pub last_seen: u64,
    /// Handshakes that are half open.
    pub half_open: HalfOpenWindow,
}

//! What the headers of SYNs have in common. Many sources differ in their distance and their systems; a tool that forges
//! their addresses sends the same header again and again.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Totals of one CPU, counted while the lease has [`super::lease::flag::OBSERVE_HEADERS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SynHeaders {
    /// SYNs by TTL (IPv4) or hop limit (IPv6).
    pub by_time_to_live: [u64; 256],
    /// SYNs without TCP options. Every usual system sends at least its maximum segment size (RFC 9293, section 3.7.1).
    pub without_options: u64,
}

impl SynHeaders {
    /// No SYN was counted.
    pub const NONE: Self = Self { by_time_to_live: [0; 256], without_options: 0 };
}

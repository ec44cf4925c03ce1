//! What the datapath may do at this moment, by the daemon's word, which is good for some seconds only:
//! the datapath of a daemon that has died, or hangs, passes everything.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::bucket::Rate;

/// The daemon's word, renewed with each of its ticks.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Control {
    /// The last moment, in jiffies, that it is good for. 0: there is none.
    pub good_until: u64,
    /// See [`flag`].
    pub flags: u64,
    /// Changes whenever a rule does; never 0.
    pub generation: u64,
    /// What a source may send, and what a new one's bucket holds.
    pub rate: Rate,
    /// Half-open handshakes that a proven source may have, and pass unchallenged.
    pub most_half_open: u64,
    /// For how many jiffies a completed handshake proves its source.
    pub proven_ticks: u64,
    /// What to add to the milliseconds of jiffies for the kernel's clock of TCP timestamps.
    pub timestamp_offset: u64,
    /// SYNs of unproven sources that may come to one port within a moment ([`crate::clock::Clock::moment`])
    /// before the datapath challenges by itself. 0: any number.
    pub most_load: u64,
}

/// Bits of [`Control::flags`].
pub mod flag {
    /// Frames are dropped. Without this, those that would be are counted.
    pub const DROP: u64 = 1;
    /// There are rules to look up.
    pub const RULES: u64 = 1 << 1;
    /// SYNs with data are dropped, wherever no service has a policy of its own.
    pub const DROP_PAYLOAD: u64 = 1 << 2;
    /// The host's addresses are known; without this, every destination counts as the host's.
    pub const LOCAL_KNOWN: u64 = 1 << 3;
    /// Sources are held to [`Control::rate`].
    pub const LIMIT: u64 = 1 << 4;
    /// Some ports are challenged, or may come to be.
    pub const CHALLENGE: u64 = 1 << 5;
    /// Segments that belong to no connection are dropped, at ports that say so.
    pub const GUARD: u64 = 1 << 6;
}

impl Control {
    /// There is none: everything passes.
    pub const NONE: Self = Self {
        good_until: 0,
        flags: 0,
        generation: 0,
        rate: Rate::NONE,
        most_half_open: 0,
        proven_ticks: 0,
        timestamp_offset: 0,
        most_load: 0,
    };
}

/// What holds for SYNs with data to one port.
pub mod payload_policy {
    /// What holds for the host.
    pub const HOST: u32 = 0;
    /// They pass: the port's service is calm.
    pub const PASS: u32 = 1;
    /// They are dropped: the port's service is under attack.
    pub const DROP: u32 = 2;
}

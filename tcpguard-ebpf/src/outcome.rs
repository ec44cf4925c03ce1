//! What can come of a packet, and what is done with it.

use aya_ebpf::bindings::xdp_action;
use tcpguard_common::{
    counters::Counter,
    drops::DropReason,
    packet::{SegmentKind, Unread},
};

/// The outcome of one packet.
#[derive(Clone, Copy)]
pub enum Outcome {
    /// It holds no TCP segment that could be read.
    Unread(Unread),
    /// A segment of this kind, accounted where there was something to account.
    Read(SegmentKind),
    /// A SYN whose source got no entry, because of a flood of others.
    SynUntracked,
    /// It goes no further.
    Dropped(DropReason),
}

impl Outcome {
    /// The verdict for the driver.
    #[inline(always)]
    pub const fn action(self) -> u32 {
        match self {
            Self::Unread(_) | Self::Read(_) | Self::SynUntracked => xdp_action::XDP_PASS,
            Self::Dropped(_) => xdp_action::XDP_DROP,
        }
    }

    /// What it is counted as.
    #[inline(always)]
    pub fn counter(self) -> Counter {
        match self {
            Self::Unread(reason) => reason.into(),
            Self::Read(kind) => kind.into(),
            Self::SynUntracked => Counter::SynUntracked,
            Self::Dropped(reason) => reason.counter(),
        }
    }
}

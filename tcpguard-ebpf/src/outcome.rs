//! What can come of a packet, what it is counted as, and what is done with it: the one table of both.

use aya_ebpf::bindings::xdp_action;
use tcpguard_common::{
    counters::Counter,
    drops::DropReason,
    packet::{SegmentKind, Unread},
};

/// The outcome of one packet. It carries what follows from it rather than what it was: where paths
/// through the program meet again, that is two numbers, and nothing has to be told apart once more.
#[derive(Clone, Copy)]
pub struct Outcome {
    /// The number of a [`Counter`].
    counted_as: u32,
    action: u32,
}

/// A SYN that has been judged.
#[derive(Clone, Copy)]
pub struct Judged {
    /// What became of it.
    pub outcome: Outcome,
    /// It is to be answered with a cookie.
    pub is_challenged: bool,
}

impl Judged {
    const CHALLENGED: u64 = 1 << 63;
    const ACTION_SHIFT: u32 = 32;
    const ACTION_MASK: u64 = 0xff;

    /// As a number, which a global function can return.
    #[inline(always)]
    pub const fn packed(self) -> u64 {
        let challenged = if self.is_challenged { Self::CHALLENGED } else { 0 };
        self.outcome.counted_as as u64 | (self.outcome.action as u64) << Self::ACTION_SHIFT | challenged
    }

    /// From such a number.
    #[inline(always)]
    pub const fn from_packed(packed: u64) -> Self {
        let action = (packed >> Self::ACTION_SHIFT & Self::ACTION_MASK) as u32;
        let outcome = Outcome { counted_as: packed as u32, action };
        Self { outcome, is_challenged: packed & Self::CHALLENGED != 0 }
    }
}

impl From<Outcome> for Judged {
    #[inline(always)]
    fn from(outcome: Outcome) -> Self {
        Self { outcome, is_challenged: false }
    }
}

impl Outcome {
    /// A SYN whose source got no entry, because of a flood of others.
    pub const SYN_UNTRACKED: Self = Self::passed(Counter::SynUntracked);

    /// A SYN that was sent again.
    pub const SYN_REPEATED: Self = Self::passed(Counter::SynRepeated);
    /// A SYN for another host.
    pub const SYN_FORWARDED: Self = Self::passed(Counter::SynForwarded);
    /// A SYN to a port whose listener closed a while ago.
    pub const SYN_CLOSED: Self = Self::passed(Counter::SynClosed);

    /// What becomes of a SYN that has been accounted as this, once it is answered; `None` where it is not one
    /// to answer.
    #[inline(always)]
    pub fn answered(self) -> Option<Self> {
        const TRACKED: u32 = Counter::SynTracked as u32;
        const UNTRACKED: u32 = Counter::SynUntracked as u32;
        const REPEATED: u32 = Counter::SynRepeated as u32;
        let counted_as = match self.counted_as {
            TRACKED | UNTRACKED => Counter::SynChallenged,
            REPEATED => Counter::SynChallengedAgain,
            _ => return None,
        };
        Some(Self { counted_as: counted_as as u32, action: xdp_action::XDP_TX })
    }

    /// It holds no TCP segment that could be read.
    #[inline(always)]
    pub fn unread(reason: Unread) -> Self {
        Self::passed(reason.into())
    }

    /// A segment of this kind, accounted where there was something to account.
    #[inline(always)]
    pub fn read(kind: SegmentKind) -> Self {
        Self::passed(kind.into())
    }

    /// It goes no further.
    #[inline(always)]
    pub const fn dropped(reason: DropReason) -> Self {
        Self { counted_as: reason.counter() as u32, action: xdp_action::XDP_DROP }
    }

    #[inline(always)]
    const fn passed(counted_as: Counter) -> Self {
        Self { counted_as: counted_as as u32, action: xdp_action::XDP_PASS }
    }

    /// The verdict for the driver.
    #[inline(always)]
    pub const fn action(self) -> u32 {
        self.action
    }

    /// The place of what it is counted as.
    #[inline(always)]
    pub const fn counter(self) -> usize {
        self.counted_as as usize
    }
}

//! What can come of a packet, what it is counted as, and what is done with it: the one table of both.

use tcpguard_common::{
    counters::Counter,
    drops::DropReason,
    packet::{SegmentKind, Unread},
};

/// The outcome of one packet. It carries what follows from it rather than what it was: where paths
/// through the program meet again, that is two numbers, and nothing has to be told apart once more.
#[derive(Clone, Copy)]
pub struct Outcome {
    counted_as: Counter,
    is_dropped: bool,
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

    /// What becomes of a SYN that has been accounted as this, and is to be answered. It passes where it cannot
    /// be, and where it is not one that may be.
    #[inline(always)]
    pub const fn challenged(self) -> Self {
        match self.counted_as {
            Counter::SynTracked | Counter::SynUntracked => Self::passed(Counter::SynChallenged),
            Counter::SynRepeated => Self::passed(Counter::SynChallengedAgain),
            _ => self,
        }
    }

    /// Whether it is to be answered.
    #[inline(always)]
    pub const fn is_challenged(self) -> bool {
        matches!(self.counted_as, Counter::SynChallenged | Counter::SynChallengedAgain)
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
        Self { counted_as: reason.counter(), is_dropped: true }
    }

    #[inline(always)]
    const fn passed(counted_as: Counter) -> Self {
        Self { counted_as, is_dropped: false }
    }

    /// Whether it goes no further.
    #[inline(always)]
    pub const fn is_dropped(self) -> bool {
        self.is_dropped
    }

    /// What it is counted as.
    #[inline(always)]
    pub const fn counter(self) -> Counter {
        self.counted_as
    }
}

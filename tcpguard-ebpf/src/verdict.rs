//! The verdict on a packet: what it is counted as, and what happens to it.

use tcpguard_common::{
    abi::{
        counters::{Counter, DropReason},
        names::answer,
    },
    packet::{SegmentKind, Unread},
};

/// The verdict on one packet. It holds the consequences rather than the reason: where paths through the program meet
/// again, these are two numbers, and nothing has to be distinguished a second time.
#[derive(Clone, Copy)]
pub struct Verdict {
    counted_as: Counter,
    is_dropped: bool,
}

impl Verdict {
    /// A SYN whose source was not admitted because of a flood of new sources.
    pub const SYN_UNTRACKED: Self = Self::pass(Counter::SynUntracked);
    /// A retransmitted SYN.
    pub const SYN_REPEATED: Self = Self::pass(Counter::SynRepeated);
    /// A SYN for another host.
    pub const SYN_FORWARDED: Self = Self::pass(Counter::SynForwarded);
    /// A SYN that is to be answered so that its client resets it.
    pub const SYN_PROMPTED: Self = Self::pass(Counter::SynPrompted);
    /// A SYN to a port without a listener.
    pub const SYN_CLOSED: Self = Self::pass(Counter::SynClosed);

    /// A frame without a TCP segment that can be parsed.
    #[inline(always)]
    pub fn unparsed(reason: Unread) -> Self {
        Self::pass(reason.into())
    }

    /// A segment of this kind that passes.
    #[inline(always)]
    pub fn passed(kind: SegmentKind) -> Self {
        Self::pass(kind.into())
    }

    /// A dropped frame.
    #[inline(always)]
    pub const fn dropped(reason: DropReason) -> Self {
        Self { counted_as: reason.counter(), is_dropped: true }
    }

    #[inline(always)]
    const fn pass(counted_as: Counter) -> Self {
        Self { counted_as, is_dropped: false }
    }

    /// Returns the verdict on the same SYN if it is to be answered with a cookie. Verdicts on SYNs that are not answered
    /// stay as they are.
    #[inline(always)]
    pub const fn challenged(self) -> Self {
        match self.counted_as {
            Counter::SynTracked | Counter::SynUntracked => Self::pass(Counter::SynChallenged),
            Counter::SynRepeated => Self::pass(Counter::SynChallengedAgain),
            _ => self,
        }
    }

    /// Returns whether the SYN is to be answered by the datapath.
    #[inline(always)]
    pub const fn is_challenged(self) -> bool {
        matches!(self.counted_as, Counter::SynChallenged | Counter::SynChallengedAgain | Counter::SynPrompted)
    }

    /// Returns the program that answers the SYN, if it is to be answered.
    #[inline(always)]
    pub const fn answer(self) -> Option<u32> {
        match self.counted_as {
            Counter::SynChallenged | Counter::SynChallengedAgain => Some(answer::WITH_COOKIE),
            Counter::SynPrompted => Some(answer::FOR_RESET),
            _ => None,
        }
    }

    /// Returns whether the frame is a SYN that begins a handshake to be judged
    /// ([`tcpguard_common::abi::counters::Counted::SynBegun`]).
    #[inline(always)]
    pub const fn begins_handshake(self) -> bool {
        matches!(self.counted_as, Counter::SynTracked | Counter::SynUntracked | Counter::SynChallenged)
    }

    /// Returns whether the frame is dropped.
    #[inline(always)]
    pub const fn is_dropped(self) -> bool {
        self.is_dropped
    }

    /// Returns what the frame is counted as.
    #[inline(always)]
    pub const fn counter(self) -> Counter {
        self.counted_as
    }
}

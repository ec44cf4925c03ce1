//! Events that the datapath reports to the daemon at once, through the ring buffer. Losing an event does no
//! harm: the daemon finds the same facts when it next reads the table.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::address::Address;

/// A source is reported when its half-open handshakes of one period reach this number, or twice, four times …
/// as many.
pub const FIRST_BUSY_MARK: u32 = 16;

/// Returns whether a source's half-open count of one period is to be reported.
#[inline(always)]
pub const fn is_busy_mark(count: u32) -> bool {
    count >= FIRST_BUSY_MARK && count & (count - 1) == 0
}

/// An event reported by the datapath.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Event {
    /// The kind of event: one of [`kind`].
    pub kind: u32,
    /// For [`kind::FIRST_DROP`], the index of the reason in [`crate::abi::counters::DropReason::ALL`]; for
    /// [`kind::LISTENERS_CHANGED`] and [`kind::CHALLENGE_TRIGGERED`], the port.
    pub reason: u32,
    /// The source that the event is about; unspecified for events about ports and
    /// for [`kind::HANDSHAKES_BEGUN`].
    pub source: Address,
    /// For [`kind::SOURCE_BUSY`], the half-open handshakes that began in the current period.
    pub half_open: u64,
}

/// Values of [`Event::kind`].
pub mod kind {
    /// A source's half-open handshakes reached a mark ([`super::is_busy_mark`]).
    pub const SOURCE_BUSY: u32 = 1;
    /// A SYN of a source that has an entry was dropped for the first time.
    pub const FIRST_DROP: u32 = 2;
    /// A listener opened or closed.
    pub const LISTENERS_CHANGED: u32 = 3;
    /// The datapath began to challenge SYNs to a port on its own.
    pub const CHALLENGE_TRIGGERED: u32 = 4;
    /// On one CPU, more handshakes have begun than ended since the last tick, by as many as the lease says
    /// ([`crate::abi::watch`]).
    pub const HANDSHAKES_BEGUN: u32 = 5;
    /// A handshake was completed whose SYN has a signature: a client has that shape.
    pub const SIGNATURE_REFUTED: u32 = 6;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_powers_of_two_from_the_first() {
        let marks: Vec<u32> = (0..=200).filter(|&count| is_busy_mark(count)).collect();
        assert_eq!(marks, [16, 32, 64, 128]);
    }
}

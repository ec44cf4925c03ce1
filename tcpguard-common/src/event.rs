//! What the datapath tells the daemon at once, through the ring buffer. Losing an event does no harm:
//! the daemon finds the same facts when it next reads the table.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{address::Address, packet::Be16};

/// A source whose half-open handshakes of one period reached this many, or twice, four times … as many, is reported.
pub const FIRST_BUSY_MARK: u32 = 16;

/// Whether a source's half-open count of one period is one to report.
#[inline(always)]
pub const fn is_busy_mark(count: u32) -> bool {
    count >= FIRST_BUSY_MARK && count & (count - 1) == 0
}

/// What the datapath has to tell.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Event {
    /// What happened: one of [`kind`].
    pub kind: u32,
    /// [`kind::FIRST_DROP`]: the number of the reason among [`crate::drops::DropReason::ALL`].
    /// [`kind::LISTENERS_CHANGED`] and [`kind::CHALLENGE_TRIGGERED`]: the port.
    pub reason: u32,
    /// Who.
    pub source: Address,
    /// [`kind::SOURCE_BUSY`]: half-open handshakes that began in this period.
    pub half_open: u64,
}

/// Values of [`Event::kind`].
pub mod kind {
    /// A source became busy.
    pub const SOURCE_BUSY: u32 = 1;
    /// The first SYN of a source that has an entry was dropped.
    pub const FIRST_DROP: u32 = 2;
    /// A listener opened or closed.
    pub const LISTENERS_CHANGED: u32 = 3;
    /// The datapath began to challenge the SYNs to a port by itself.
    pub const CHALLENGE_TRIGGERED: u32 = 4;
}

/// What is asked of the program that blocks a source.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct BlockOrder {
    source: [Be16; 8],
    until: [Be16; 4],
}

impl BlockOrder {
    /// That the SYNs of `source` are dropped until `until` (jiffies; 0 lifts a block).
    pub fn new(source: Address, until: u64) -> Self {
        let octets = source.octets();
        let field = |bytes: &[u8]| Be16::new_raw(u16::from_ne_bytes([bytes[0], bytes[1]]));
        let until = until.to_be_bytes();
        Self {
            source: core::array::from_fn(|index| field(&octets[2 * index..])),
            until: core::array::from_fn(|index| field(&until[2 * index..])),
        }
    }

    /// Who.
    #[inline(always)]
    pub fn source(&self) -> Address {
        Address::from_ipv6_fields(self.source)
    }

    /// Until when.
    #[inline(always)]
    pub const fn until(&self) -> u64 {
        let [a, b, c, d] = self.until;
        (a.get() as u64) << 48 | (b.get() as u64) << 32 | (c.get() as u64) << 16 | d.get() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_says_what_was_ordered() {
        let source = Address::from(core::net::Ipv4Addr::new(198, 18, 3, 4));
        let order = BlockOrder::new(source, 0x0123_4567_89ab_cdef);
        assert_eq!((order.source(), order.until()), (source, 0x0123_4567_89ab_cdef));
    }

    #[test]
    fn marks_are_powers_of_two_from_the_first() {
        let marks: Vec<u32> = (0..=200).filter(|&count| is_busy_mark(count)).collect();
        assert_eq!(marks, [16, 32, 64, 128]);
    }
}

//! Signatures: the shapes that the SYNs of a flood have in common, and that hardly any client has.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{hash::GOLDEN_RATIO, packet::Shape};

/// The maximum number of signatures in force.
pub const MAX_SIGNATURES: usize = 4;

/// A signature, by which SYNs are dropped.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Signature {
    /// The bits of [`Shape`] that are compared; 0 if there is no signature.
    pub mask: u64,
    /// Their values.
    pub value: u64,
}

impl Signature {
    /// No SYN has it.
    pub const NONE: Self = Self { mask: 0, value: 0 };

    /// Returns whether a SYN of this shape has the signature.
    #[inline(always)]
    pub const fn is_of(self, shape: Shape) -> bool {
        self.mask != 0 && shape.0 & self.mask == self.value
    }
}

/// Of the sources with a signature, one in so many is let through for a while, so that a client among them is noticed.
const TRIED_ONE_IN: u64 = 256;

/// Returns whether SYNs with a signature of a source with this hash are let through in this period
/// ([`crate::clock::Clock::window_period`]; others are in every second one). Retransmits within the same sixteen seconds are
/// let through as well.
#[inline(always)]
pub const fn is_tried(source_hash: u64, period: u32) -> bool {
    let mixed = (source_hash ^ (period >> 1) as u64).wrapping_mul(GOLDEN_RATIO);
    mixed >> 32 & (TRIED_ONE_IN - 1) == 0
}

/// The map of handshakes with a signature that were let through.
pub mod tried {
    /// The number of elements, one word each.
    pub const ELEMENTS: u32 = 16_384;

    /// Returns the index of the element for a client port with this hash.
    #[inline(always)]
    pub const fn index(client_hash: u64) -> u32 {
        client_hash as u32 & (ELEMENTS - 1)
    }
}

/// A handshake with a signature that was let through: tag of the client's address and port (56 bits), and the period (8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tried(pub u64);

impl Tried {
    /// For how many periods of about eight seconds it may complete: a client retransmits its SYN for some seconds.
    const LASTS: u64 = 3;

    /// Returns the word for a client port with this hash; never 0.
    #[inline(always)]
    pub const fn new(client_hash: u64, period: u32) -> Self {
        Self(client_hash & !0xff | 1 << 8 | period as u64 & 0xff)
    }

    /// Returns whether this is a handshake of a client port with this hash that may still complete.
    #[inline(always)]
    pub const fn is_of(self, client_hash: u64, now: u32) -> bool {
        let age = (now as u64).wrapping_sub(self.0) & 0xff;
        self.0 & !0xff == client_hash & !0xff | 1 << 8 && age < Self::LASTS
    }
}

/// Completed handshakes by the class of their SYN's shape ([`Shape::class`]), counted by one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CompletedShapes {
    /// Handshakes completed.
    pub handshakes: [u64; 256],
    /// Those of them whose source was not proven before: a client that connects again and again counts once.
    pub sources: [u64; 256],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_compared_matters() {
        let signature = Signature { mask: 0xff00, value: 0x1200 };
        assert!(signature.is_of(Shape(0xab_12cd)));
        assert!(!signature.is_of(Shape(0xab_13cd)));
        assert!(!Signature::NONE.is_of(Shape(0)));
    }

    #[test]
    fn every_source_is_tried_in_turn_and_for_a_while() {
        let hash = |n: u64| crate::hash::address(7, std::net::Ipv4Addr::from(n as u32).into());
        let tried = (0..100_000u64).filter(|n| is_tried(hash(*n), 40)).count();
        assert!((300..500).contains(&tried), "{tried} of 100,000");
        let periods = (0..100_000u32).filter(|period| is_tried(hash(1), *period)).count();
        assert!((300..500).contains(&periods), "{periods} of 100,000 periods");
        assert!((0..1000u64).all(|n| is_tried(hash(n), 40) == is_tried(hash(n), 41)));
    }

    #[test]
    fn what_was_let_through_is_known_for_a_while() {
        let client = 0xfeed_beef_dead_cafe;
        let tried = Tried::new(client, 0xffff);
        assert!((0..3).all(|age| tried.is_of(client, 0xffff + age)));
        assert!(!tried.is_of(client, 0xffff + 3));
        assert!(!tried.is_of(client ^ 1 << 20, 0xffff));
        assert!(!Tried(0).is_of(0, 0), "an element that was never written");
    }
}

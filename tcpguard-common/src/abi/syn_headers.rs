//! What the headers of SYNs have in common. Many sources differ in their distance and their systems; a tool that forges
//! their addresses sends the same header again and again.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::packet::Shape;

/// The number of shapes kept: those of the last ones sampled.
pub const SAMPLES: usize = 256;
/// One SYN in so many is sampled.
pub const SAMPLED_ONE_IN: u64 = 4;

/// Totals of one CPU, counted while the lease has [`super::lease::flag::OBSERVE_HEADERS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SynHeaders {
    /// SYNs by TTL (IPv4) or hop limit (IPv6).
    pub by_time_to_live: [u64; 256],
    /// The shapes ([`crate::packet::Shape`]) of some of the SYNs; see [`SynHeaders::sample`].
    pub samples: [u64; SAMPLES],
    /// SYNs counted.
    pub syn: u64,
    /// SYNs without TCP options. Every usual system sends at least its maximum segment size (RFC 9293, section 3.7.1).
    pub without_options: u64,
}

impl SynHeaders {
    /// No SYN was counted.
    pub const NONE: Self = Self { by_time_to_live: [0; 256], samples: [0; SAMPLES], syn: 0, without_options: 0 };
}

impl SynHeaders {
    /// Counts a SYN of this shape.
    #[inline(always)]
    pub const fn count(&mut self, shape: Shape) {
        self.by_time_to_live[shape.time_to_live() as usize] += 1;
        self.without_options += !shape.has_options() as u64;
        self.syn += 1;
        if self.syn.is_multiple_of(SAMPLED_ONE_IN) {
            self.samples[(self.syn / SAMPLED_ONE_IN) as usize % SAMPLES] = shape.0;
        }
    }

    /// Returns the shapes that were sampled since `syn` was `before`, as far as they are kept.
    pub fn sampled_since(&self, before: u64) -> impl Iterator<Item = Shape> {
        let (first, last) = (before / SAMPLED_ONE_IN + 1, self.syn / SAMPLED_ONE_IN);
        let first = first.max((last + 1).saturating_sub(SAMPLES as u64));
        (first..=last).map(|number| Shape(self.samples[number as usize % SAMPLES]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_four_is_sampled_and_the_last_ones_are_kept() {
        let mut headers = SynHeaders::NONE;
        (1..=40).for_each(|n| headers.count(Shape(n)));
        let shapes =
            |headers: &SynHeaders, before| headers.sampled_since(before).map(|shape| shape.0).collect::<Vec<_>>();
        assert_eq!(shapes(&headers, 0), [4, 8, 12, 16, 20, 24, 28, 32, 36, 40]);
        assert_eq!(shapes(&headers, 30), [32, 36, 40]);
        assert_eq!(shapes(&headers, 40), []);
        (41..=10_000).for_each(|n| headers.count(Shape(n)));
        let last = shapes(&headers, 40);
        assert_eq!((last.len(), last[0], last[255]), (SAMPLES, 10_000 - 4 * 255, 10_000));
    }
}

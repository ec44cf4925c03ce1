//! The shape of a SYN: what its sender's system or tool determines, whoever it claims to be.

use super::{Flags, Segment, TCP_HEADER_LENGTH};
use crate::hash::GOLDEN_RATIO;

/// The headers of a SYN in one word:
///
/// | bits | what |
/// | --- | --- |
/// | 0 to 15 | window |
/// | 16 to 23 | TTL or hop limit |
/// | 24 to 27 | data offset, in words |
/// | 28 | whether it is IPv6 |
/// | 29, 30 | the flags ECE and CWR |
/// | 31 | whether it has data |
/// | 32 to 63 | the first word of the options, usually the maximum segment size (RFC 9293, section 3.7.1); 0 without options |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shape(pub u64);

/// The bits of the window.
pub const WINDOW: u64 = 0xffff;
/// The bits of the TTL.
pub const TIME_TO_LIVE: u64 = 0xff << 16;
/// The bits of the maximum segment size, where the first option tells it.
pub const SEGMENT_SIZE: u64 = 0xffff << 32;

impl Shape {
    /// Returns the shape of a segment.
    #[inline(always)]
    pub const fn of(segment: &Segment) -> Self {
        let flags = (segment.flags.0 & (Flags::ECE | Flags::CWR)) as u64 >> 6;
        Self(
            segment.window.get() as u64
                | (segment.time_to_live as u64) << 16
                | ((segment.header_length as u64 / 4) & 0xf) << 24
                | (!segment.source.is_ipv4() as u64) << 28
                | flags << 29
                | ((segment.payload_length != 0) as u64) << 31
                | (segment.first_option[0].get() as u64) << 48
                | (segment.first_option[1].get() as u64) << 32,
        )
    }

    /// Returns the class of the shape, 1 to 255: it depends on the data offset and on kind and length of the first option
    /// alone. The systems of clients differ in them; what the same system sends over other paths, families and services is
    /// of the same class. Shapes of different systems may share one.
    #[inline(always)]
    pub const fn class(self) -> u8 {
        const CONSIDERED: u64 = 0xffff << 48 | 0xf << 24;
        let class = ((self.0 & CONSIDERED).wrapping_mul(GOLDEN_RATIO) >> 56) as u8;
        if class == UNKNOWN_CLASS { 1 } else { class }
    }

    /// Returns the window.
    pub const fn window(self) -> u16 {
        self.0 as u16
    }

    /// Returns the TTL or hop limit.
    pub const fn time_to_live(self) -> u8 {
        (self.0 >> 16) as u8
    }

    /// Returns the length of the TCP header, in bytes.
    pub const fn header_length(self) -> u8 {
        (self.0 >> 24 & 0xf) as u8 * 4
    }

    /// Returns whether there are TCP options.
    #[inline(always)]
    pub const fn has_options(self) -> bool {
        self.header_length() != TCP_HEADER_LENGTH as u8
    }

    /// Returns whether it is IPv6.
    pub const fn is_ipv6(self) -> bool {
        self.0 >> 28 & 1 != 0
    }

    /// Returns the first word of the options.
    pub const fn first_option(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// The class of no shape.
pub const UNKNOWN_CLASS: u8 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_window_nor_distance_nor_family_nor_data_changes_the_class() {
        let linux = Shape(0x0204_05b4_0a40_faf0);
        let others = [0x0204_05b4_0a40_ffff, 0x0204_05b4_0a2f_faf0, 0x0204_0550_0a40_faf0, 0x0204_05b4_fa40_faf0];
        for other in others {
            assert_eq!(Shape(other).class(), linux.class());
        }
    }

    #[test]
    fn usual_systems_and_tools_are_in_different_classes() {
        // Linux, Windows, no options, the segment size alone, and padding in front of it.
        let shapes =
            [0x0204_05b4_0a40_faf0, 0x0204_05b4_0880_ffff, 0x05f4_0000, 0x0204_05b4_06f4_0400, 0x0101_0204_07f4_0400];
        let mut classes: Vec<u8> = shapes.iter().map(|shape| Shape(*shape).class()).collect();
        classes.sort_unstable();
        classes.dedup();
        assert_eq!(classes.len(), shapes.len());
        assert!(!classes.contains(&UNKNOWN_CLASS));
    }
}

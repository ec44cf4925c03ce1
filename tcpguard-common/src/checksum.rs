//! The Internet checksum (RFC 1071). It comes out right whatever the byte order, as long as words are summed
//! as they stand in memory.

use crate::packet::Be16;

/// The sum of words.
#[inline(always)]
pub fn sum(words: &[Be16]) -> u32 {
    let mut sum = 0;
    for word in words {
        sum += word.raw() as u32;
    }
    sum
}

/// The checksum field for a sum.
#[inline(always)]
pub const fn checksum(sum: u32) -> Be16 {
    let once = (sum & 0xffff) + (sum >> 16);
    Be16::new_raw(!((once + (once >> 16)) as u16))
}

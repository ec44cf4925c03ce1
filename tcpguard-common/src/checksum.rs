//! The Internet checksum (RFC 1071). The result is correct in either byte order, as long as words are summed as
//! they are stored in memory.

use crate::wire::Be16;

/// Returns the sum of `words` as they are stored in memory, not yet folded to 16 bits.
#[inline(always)]
pub fn sum(words: &[Be16]) -> u32 {
    let mut sum = 0;
    for word in words {
        sum += word.raw() as u32;
    }
    sum
}

/// Returns the value of the checksum field for a sum.
#[inline(always)]
pub const fn checksum(sum: u32) -> Be16 {
    let once = (sum & 0xffff) + (sum >> 16);
    Be16::new_raw(!((once + (once >> 16)) as u16))
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carries_are_added_until_there_is_none() {
        // The second addition has a carry of its own.
        for (sum, expected) in [(0, 0xffff), (0xffff, 0), (0x1_fffe, 0), (0x1_ffff, 0xfffe), (0xfffe_0001, 0)] {
            assert_eq!(checksum(sum).raw(), expected, "{sum:#x}");
        }
    }
}

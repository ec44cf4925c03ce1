//! SipHash-1-3 (Aumasson and Bernstein, <https://www.aumasson.jp/siphash/siphash.pdf>): a hash with a secret key of 128 bits,
//! for what others see and must not be able to tell in advance.

/// Returns the hash of these words, each of which is taken as eight bytes in the order of the processor.
#[inline(always)]
pub const fn of_words<const WORDS: usize>(key: [u64; 2], words: &[u64; WORDS]) -> u64 {
    let mut state = [
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ];
    let mut place = 0;
    while place < WORDS {
        state = with(state, words[place]);
        place += 1;
    }
    // No bytes remain, and the uppermost byte of the last word is the length in bytes.
    state = with(state, (WORDS as u64 * 8) << 56);
    state[2] ^= 0xff;
    state = round(round(round(state)));
    state[0] ^ state[1] ^ state[2] ^ state[3]
}

#[inline(always)]
const fn with(mut state: [u64; 4], word: u64) -> [u64; 4] {
    state[3] ^= word;
    state = round(state);
    state[0] ^= word;
    state
}

#[inline(always)]
const fn round([mut v0, mut v1, mut v2, mut v3]: [u64; 4]) -> [u64; 4] {
    v0 = v0.wrapping_add(v1);
    v1 = v1.rotate_left(13) ^ v0;
    v0 = v0.rotate_left(32);
    v2 = v2.wrapping_add(v3);
    v3 = v3.rotate_left(16) ^ v2;
    v0 = v0.wrapping_add(v3);
    v3 = v3.rotate_left(21) ^ v0;
    v2 = v2.wrapping_add(v1);
    v1 = v1.rotate_left(17) ^ v2;
    v2 = v2.rotate_left(32);
    [v0, v1, v2, v3]
}

#[cfg(test)]
mod tests {
    use std::hash::{DefaultHasher, Hasher as _};

    use super::*;

    #[test]
    fn it_is_siphash() {
        // The standard library's hasher is SipHash-1-3 with the key 0.
        for words in [[1u64, 2, 3, 4, 5], [0; 5], [u64::MAX, 0, u64::MAX, 7, 1 << 63]] {
            let mut hasher = DefaultHasher::new();
            words.iter().for_each(|word| hasher.write(&word.to_le_bytes()));
            assert_eq!(of_words([0; 2], &words.map(u64::to_le)), hasher.finish());
        }
    }

    #[test]
    fn each_half_of_the_key_matters() {
        let hashes = [[0, 0], [1, 0], [0, 1], [1, 1]].map(|key| of_words(key, &[7]));
        for (place, hash) in hashes.iter().enumerate() {
            assert!(!hashes[..place].contains(hash), "{hashes:x?}");
        }
    }
}

//! The TCP options of a SYN that an answer depends on.

use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::{
    packet::TCP_HEADER_LENGTH,
    wire::{Be16, Be32, PacketBytes},
};

const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MSS: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const TIMESTAMPS: u8 = 8;
/// The TCP MD5 signature option (RFC 2385).
const MD5_SIGNATURE: u8 = 19;
/// The TCP authentication option (RFC 5925).
const AUTHENTICATION: u8 = 29;
/// The length of the option with an MD5 signature (RFC 2385), and the least one of an authentication option (RFC 5925).
const MD5_LENGTH: u8 = 18;
const AUTHENTICATION_LENGTH: u8 = 4;

/// The maximum length of a header's options, in bytes.
const MAX_BYTES: usize = 40;
/// The maximum number of options read, padding included: no system sends more than eight.
const MAX_OPTIONS: usize = 16;
/// The maximum window scale; greater values count as this one (RFC 7323 2.3).
const MAX_WINDOW_SCALE: u8 = 14;

/// The options of a SYN, packed into one number: MSS (16 bits, 0 if absent), window scale plus one (4), whether
/// selective acknowledgements are permitted (1), whether there is a timestamp (1), whether there is an MD5 signature
/// (1) or an authentication option (1), and the timestamp (upper 32).
///
/// The verifier knows nothing about the value of a packed number, and does not have to track how it was
/// assembled.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct SynOptions(u64);

/// The option by which a segment claims to be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signature {
    /// None.
    None,
    /// An MD5 signature (RFC 2385).
    Md5,
    /// The TCP authentication option (RFC 5925).
    Authentication,
}

const MSS_MASK: u64 = 0xffff;
const SCALE_SHIFT: u32 = 16;
const SCALE_MASK: u64 = 0xf << SCALE_SHIFT;
const SACK_BIT: u64 = 1 << 20;
const TIMESTAMP_BIT: u64 = 1 << 21;
const MD5_BIT: u64 = 1 << 22;
const AUTHENTICATION_BIT: u64 = 1 << 23;
const TIMESTAMP_SHIFT: u32 = 32;

impl SynOptions {
    /// Returns the MSS in bytes; 0 if the SYN has none.
    #[inline(always)]
    pub const fn mss(self) -> u16 {
        self.0 as u16
    }

    /// Returns the window scale (RFC 7323), 0 to 14.
    #[inline(always)]
    pub const fn window_scale(self) -> Option<u8> {
        match (self.0 & SCALE_MASK) >> SCALE_SHIFT {
            0 => None,
            scale => Some(scale as u8 - 1),
        }
    }

    /// Returns whether selective acknowledgements are permitted (RFC 2018).
    #[inline(always)]
    pub const fn sack(self) -> bool {
        self.0 & SACK_BIT != 0
    }

    /// Returns the timestamp value (RFC 7323).
    #[inline(always)]
    pub const fn timestamp(self) -> Option<u32> {
        if self.0 & TIMESTAMP_BIT != 0 { Some((self.0 >> TIMESTAMP_SHIFT) as u32) } else { None }
    }

    /// Returns by which options the SYN claims to be signed; see [`is_signed`]. Only the kernel can answer it, because the answer has to be
    /// signed too; whether the signature is right is not checked.
    #[inline(always)]
    pub const fn signature(self) -> Signature {
        if self.0 & AUTHENTICATION_BIT != 0 {
            Signature::Authentication
        } else if self.0 & MD5_BIT != 0 {
            Signature::Md5
        } else {
            Signature::None
        }
    }

    /// Returns the options as one number.
    #[inline(always)]
    pub const fn packed(self) -> u64 {
        self.0
    }

    /// Creates options from a number returned by [`SynOptions::packed`].
    #[inline(always)]
    pub const fn from_packed(packed: u64) -> Self {
        Self(packed)
    }

    /// Returns the options with this MSS, in bytes.
    #[inline(always)]
    #[must_use]
    pub const fn with_mss(self, mss: u16) -> Self {
        Self(self.0 & !MSS_MASK | mss as u64)
    }

    /// Returns the options with this window scale; values above 14 count as 14 (RFC 7323 2.3).
    #[inline(always)]
    #[must_use]
    pub const fn with_window_scale(self, scale: u8) -> Self {
        let scale = if scale < MAX_WINDOW_SCALE { scale } else { MAX_WINDOW_SCALE };
        Self(self.0 & !SCALE_MASK | (scale as u64 + 1) << SCALE_SHIFT)
    }

    /// Returns the options with selective acknowledgements permitted.
    #[inline(always)]
    #[must_use]
    pub const fn with_sack(self) -> Self {
        Self(self.0 | SACK_BIT)
    }

    /// Returns the options with this timestamp value.
    #[inline(always)]
    #[must_use]
    pub const fn with_timestamp(self, timestamp: u32) -> Self {
        Self(self.0 & 0xffff_ffff | TIMESTAMP_BIT | (timestamp as u64) << TIMESTAMP_SHIFT)
    }
}

impl core::fmt::Debug for SynOptions {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter
            .debug_struct("SynOptions")
            .field("mss", &self.mss())
            .field("window_scale", &self.window_scale())
            .field("sack", &self.sack())
            .field("timestamp", &self.timestamp())
            .finish()
    }
}

/// The options that Linux and Android send: MSS, SACK permitted, timestamps, a padding byte and the window
/// scale.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
struct LinuxOptions {
    mss_option: Be16,
    mss: Be16,
    sack_option: Be16,
    timestamps_option: Be16,
    timestamp: Be32,
    echo: Be32,
    scale_option: Be16,
    scale: Be16,
}

impl LinuxOptions {
    const MSS_OPTION: u16 = 0x0204;
    const SACK_OPTION: u16 = 0x0402;
    const TIMESTAMPS_OPTION: u16 = 0x080a;
    const SCALE_OPTION: u16 = 0x0103;

    #[inline(always)]
    fn understand(&self) -> Option<SynOptions> {
        let is_layout = self.mss_option.get() == Self::MSS_OPTION
            && self.sack_option.get() == Self::SACK_OPTION
            && self.timestamps_option.get() == Self::TIMESTAMPS_OPTION
            && self.scale_option.get() == Self::SCALE_OPTION
            && self.scale.get() >> 8 == WINDOW_SCALE as u16;
        is_layout.then(|| {
            SynOptions::default()
                .with_mss(self.mss.get())
                .with_window_scale(self.scale.get() as u8)
                .with_sack()
                .with_timestamp(self.timestamp.get())
        })
    }
}

impl SynOptions {
    /// Reads the options of the SYN whose TCP header starts at `tcp_offset` and is `header_length` bytes long,
    /// if they are in the most common layout.
    #[inline(always)]
    pub fn read_usual(bytes: &(impl PacketBytes + ?Sized), tcp_offset: usize, header_length: usize) -> Option<Self> {
        if header_length != TCP_HEADER_LENGTH + size_of::<LinuxOptions>() {
            return None;
        }
        bytes.read::<LinuxOptions>(tcp_offset + TCP_HEADER_LENGTH)?.understand()
    }

    /// Reads the options of a SYN in any layout. Like the kernel, it stops at a malformed option.
    #[inline(always)]
    pub fn read(bytes: &(impl PacketBytes + ?Sized), tcp_offset: usize, header_length: usize) -> Self {
        let mut rest =
            Rest::read(bytes, tcp_offset + TCP_HEADER_LENGTH, header_length.saturating_sub(TCP_HEADER_LENGTH));
        let mut options = Self::default();
        for _ in 0..MAX_OPTIONS {
            let (kind, size) = (rest.byte(0), rest.byte(1));
            if kind == END {
                break;
            }
            if kind == NO_OPERATION {
                rest.skip(1);
                continue;
            }
            if size < 2 {
                break;
            }
            options = options.with(kind, size, &rest);
            rest.skip(size as usize);
        }
        options
    }

    #[inline(always)]
    const fn with(self, kind: u8, size: u8, rest: &Rest) -> Self {
        match (kind, size) {
            (MSS, 4) => self.with_mss(rest.after_head() as u16),
            (WINDOW_SCALE, 3) => self.with_window_scale(rest.byte(2)),
            (SACK_PERMITTED, 2) => self.with_sack(),
            (TIMESTAMPS, 10) => self.with_timestamp(rest.after_timestamp_head()),
            (MD5_SIGNATURE, _) => Self(self.0 | MD5_BIT),
            (AUTHENTICATION, _) => Self(self.0 | AUTHENTICATION_BIT),
            _ => self,
        }
    }
}

/// Returns whether the kernel takes a SYN for signed (`tcp_do_parse_auth_options`): it looks for the first option with a
/// signature of the right length, and gives up at one that does not fit into the header. Whoever claims more than that is
/// answered by a listener with keys as if it had claimed nothing.
#[inline(always)]
pub fn is_signed(bytes: &(impl PacketBytes + ?Sized), tcp_offset: usize, header_length: usize) -> bool {
    let length = header_length.saturating_sub(TCP_HEADER_LENGTH);
    let mut rest = Rest::read(bytes, tcp_offset + TCP_HEADER_LENGTH, length);
    let mut left = length as i32;
    for _ in 0..MAX_OPTIONS {
        let (kind, size) = (rest.byte(0), rest.byte(1));
        if kind == END {
            break;
        }
        if kind == NO_OPERATION {
            rest.skip(1);
            left = left.wrapping_sub(1);
            continue;
        }
        if size < 2 || size as i32 > left {
            break;
        }
        match kind {
            MD5_SIGNATURE => return size == MD5_LENGTH,
            AUTHENTICATION => return size >= AUTHENTICATION_LENGTH,
            _ => {}
        }
        rest.skip(size as usize);
        left = left.wrapping_sub(size as i32);
    }
    false
}

/// The options not yet read: the next byte is the first word's highest, and the last option is followed by
/// zeros. An option that is cut off by the end of the header is therefore read as if zeros followed.
///
/// The words are kept in registers and shifted: the verifier checks each value of an index into memory
/// separately, and gives up after a million instructions.
struct Rest([u64; MAX_BYTES / 8]);

impl Rest {
    #[inline(always)]
    fn read(bytes: &(impl PacketBytes + ?Sized), offset: usize, length: usize) -> Self {
        let mut words = [0; MAX_BYTES / 8];
        for place in 0..MAX_BYTES / 4 {
            if 4 * place < length
                && let Some(read) = bytes.read::<Be32>(offset + 4 * place)
            {
                words[place / 2] |= (read.get() as u64) << (32 * (1 - place % 2));
            }
        }
        Self(words)
    }

    /// Returns one of the next eight bytes.
    #[inline(always)]
    const fn byte(&self, index: usize) -> u8 {
        (self.0[0] >> (56 - 8 * index)) as u8
    }

    /// Returns the two bytes after kind and length.
    #[inline(always)]
    const fn after_head(&self) -> u64 {
        self.0[0] >> 32 & 0xffff
    }

    /// Returns the four bytes after kind and length.
    #[inline(always)]
    const fn after_timestamp_head(&self) -> u32 {
        (self.0[0] >> 16) as u32
    }

    #[inline(always)]
    fn skip(&mut self, bytes: usize) {
        let bytes = if bytes < MAX_BYTES { bytes } else { MAX_BYTES };
        if bytes & 32 != 0 {
            self.0 = [self.0[4], 0, 0, 0, 0];
        }
        if bytes & 16 != 0 {
            self.0 = [self.0[2], self.0[3], self.0[4], 0, 0];
        }
        if bytes & 8 != 0 {
            self.0 = [self.0[1], self.0[2], self.0[3], self.0[4], 0];
        }
        let shift = 8 * (bytes & 7) as u32;
        let [first, second, third, fourth, fifth] = self.0;
        // The bits shifted in from the next word; in two steps, since no value may be shifted by all of its
        // bits.
        let from = |word: u64| word >> 1 >> (63 - shift);
        self.0 = [
            first << shift | from(second),
            second << shift | from(third),
            third << shift | from(fourth),
            fourth << shift | from(fifth),
            fifth << shift,
        ];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(options: &[u8]) -> SynOptions {
        let mut segment = vec![0; TCP_HEADER_LENGTH];
        segment.extend(options);
        let (segment, length) = (segment.as_slice(), segment.len());
        let read = SynOptions::read(segment, 0, length);
        if let Some(usual) = SynOptions::read_usual(segment, 0, length) {
            assert_eq!(usual, read);
        }
        read
    }

    fn options(mss: u16, scale: Option<u8>, sack: bool, timestamp: Option<u32>) -> SynOptions {
        let mut options = SynOptions::default().with_mss(mss);
        options = scale.map_or(options, |scale| options.with_window_scale(scale));
        options = if sack { options.with_sack() } else { options };
        timestamp.map_or(options, |timestamp| options.with_timestamp(timestamp))
    }

    #[test]
    fn what_systems_send() {
        let stamp = Some(0x0102_0304);
        let linux = [2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];
        let windows = [2, 4, 5, 0xb4, 1, 3, 3, 8, 1, 1, 4, 2];
        let windows_with_timestamps = [2, 4, 5, 0xb4, 1, 3, 3, 8, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0];
        let macos = [2, 4, 5, 0xb4, 1, 3, 3, 6, 1, 1, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 4, 2, 0, 0];
        let freebsd = [2, 4, 5, 0xb4, 1, 3, 3, 6, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0];
        assert_eq!(read(&linux), options(1460, Some(7), true, stamp));
        assert_eq!(read(&windows), options(1460, Some(8), true, None));
        assert_eq!(read(&windows_with_timestamps), options(1460, Some(8), true, stamp));
        assert_eq!(read(&macos), options(1460, Some(6), true, stamp));
        assert_eq!(read(&freebsd), options(1460, Some(6), true, stamp));
        assert_eq!(read(&[]), SynOptions::default());
        let mut signed = vec![2, 4, 5, 0xb4, 1, 1, 19, 18];
        signed.extend([7; 16]);
        assert_eq!((read(&signed).signature(), read(&linux).signature()), (Signature::Md5, Signature::None));
        signed[6] = 29;
        assert_eq!(read(&signed).signature(), Signature::Authentication);
        let takes = |options: &[u8]| {
            let header = [&[0; 20][..], options].concat();
            is_signed(header.as_slice(), 0, header.len())
        };
        let md5 = [&[19, 18][..], &[7; 16], &[1, 1]].concat();
        assert!(takes(&md5) && takes(&[29, 4, 1, 1]) && takes(&[&[1, 1, 2, 4, 5, 180][..], &md5].concat()));
        for unsigned in [&[19, 2, 1, 1][..], &[29, 2, 1, 1], &[29, 3, 1, 1], &[19, 18, 7, 7], &[0, 0, 29, 4], &[1; 40]]
        {
            assert!(!takes(unsigned), "{unsigned:?}");
        }
        // It claims to be signed nevertheless, and needs a listener with keys.
        assert_eq!(read(&[19, 2, 1, 1]).signature(), Signature::Md5);
        let read = read(&linux);
        assert_eq!((read.mss(), read.window_scale(), read.sack(), read.timestamp()), (1460, Some(7), true, stamp));
    }

    #[test]
    fn the_last_bytes_are_read_behind_options_of_any_length() {
        for first in 2..=30_u8 {
            let other = |length: u8| [&[254, length][..], &vec![9; usize::from(length) - 2]].concat();
            let all = [other(first), other(35 - first), vec![3, 3, 7, 4, 2]].concat();
            assert_eq!(all.len(), 40);
            let read = read(&all);
            assert_eq!((read.window_scale(), read.sack()), (Some(7), true), "after {first} and {} bytes", 35 - first);
        }
    }

    #[test]
    fn contradictions_end_it() {
        let only_mss = options(1460, None, false, None);
        assert_eq!(read(&[2, 4, 5, 0xb4, 3, 0, 4, 2]), only_mss);
        assert_eq!(read(&[2, 4, 5, 0xb4, 5, 10, 0, 0]), only_mss);
        assert_eq!(read(&[0, 0, 0, 0, 2, 4, 5, 0xb4]), SynOptions::default());
        assert_eq!(read(&[3, 3, 200, 1]), options(0, Some(14), false, None));
        assert_eq!(read(&[1; 40]), SynOptions::default());
        // An option with a wrong length is skipped.
        assert_eq!(read(&[2, 3, 5, 1, 4, 2, 1, 1]), options(0, None, true, None));
    }

    #[test]
    fn options_are_found_behind_others_of_any_length() {
        for length in 2..=30_u8 {
            let mut bytes = vec![0xfe, length];
            // What a walk that lands within it would take for options.
            bytes.extend([3, 3, 9, 19, 18, 29, 4].iter().cycle().take(usize::from(length) - 2));
            bytes.extend([8, 10, 1, 2, 3, 4, 0, 0, 0, 0]);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            assert_eq!(read(&bytes), options(0, None, false, Some(0x0102_0304)), "behind {length} bytes");
            assert!(
                !is_signed([&[0; 20][..], &bytes].concat().as_slice(), 0, 20 + bytes.len()),
                "behind {length} bytes"
            );
        }
        for length in 2..=36_u8 {
            let mut bytes = vec![0xfe, length];
            bytes.resize(usize::from(length), 3);
            bytes.extend([29, 4, 1, 1]);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            assert!(
                is_signed([&[0; 20][..], &bytes].concat().as_slice(), 0, 20 + bytes.len()),
                "behind {length} bytes"
            );
        }
    }

    #[test]
    fn what_follows_the_header_is_no_option() {
        let frame = [&[0; 20][..], &[1, 1, 1, 1, 2, 4, 5, 0xb4, 29, 4, 1, 1, 1, 1, 1, 1]].concat();
        assert_eq!(SynOptions::read(frame.as_slice(), 0, 24), SynOptions::default());
        assert!(!is_signed(frame.as_slice(), 0, 24) && is_signed(frame.as_slice(), 0, 36));
    }

    #[test]
    fn an_option_without_a_sound_length_ends_the_search_for_a_signature() {
        let takes = |options: &[u8]| is_signed([&[0; 20][..], options].concat().as_slice(), 0, 20 + options.len());
        assert!(takes(&[4, 2, 29, 4, 1, 1, 1, 1]));
        assert!(!takes(&[30, 1, 29, 4, 1, 1, 1, 1]) && !takes(&[30, 0, 29, 4, 1, 1, 1, 1]));
        assert!(takes(&[30, 4, 0, 0, 29, 4, 1, 1]) && !takes(&[1, 29, 4, 1]), "the last bytes of the header");
    }

    #[test]
    fn the_usual_layout_is_read_at_once() {
        let linux = [2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];
        let usual =
            |options: &[u8]| SynOptions::read_usual([&[0; 20][..], options].concat().as_slice(), 0, 20 + options.len());
        assert_eq!(usual(&linux), Some(read(&linux)));
        for marker in [0, 1, 4, 5, 6, 7, 16, 17, 18] {
            let mut other = linux;
            other[marker] ^= 0x10;
            assert_eq!(usual(&other), None, "byte {marker}");
        }
        assert_eq!(usual(&[&linux[..], &[0; 4]].concat()), None, "more options");
    }

    #[test]
    fn the_last_value_counts() {
        let twice = options(1460, Some(7), true, Some(1)).with_mss(100).with_window_scale(2).with_timestamp(9);
        assert_eq!(twice, options(100, Some(2), true, Some(9)));
    }

    /// Options as kinds and data, which fit into a header together.
    fn sound_options() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
        let kind = proptest::sample::select(vec![
            MSS,
            WINDOW_SCALE,
            SACK_PERMITTED,
            TIMESTAMPS,
            MD5_SIGNATURE,
            29,
            5,
            30,
            254,
        ]);
        let data = prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..=34),
            proptest::sample::select(vec![0_usize, 1, 2, 8, 16]).prop_map(|length| vec![7; length]),
        ];
        proptest::collection::vec((kind, data), 0..=8).prop_map(|mut options| {
            let mut left = MAX_BYTES;
            options.retain(|(_, data)| {
                let fits = data.len() + 2 <= left;
                left -= if fits { data.len() + 2 } else { 0 };
                fits
            });
            options
        })
    }

    proptest! {
        #[test]
        fn whatever_options_are_written_are_read(written in sound_options()) {
            let mut bytes = Vec::new();
            let mut expected = SynOptions::default();
            for (kind, data) in &written {
                bytes.extend([*kind, data.len() as u8 + 2]);
                bytes.extend(data);
                expected = match (*kind, data.as_slice()) {
                    (MSS, [high, low]) => expected.with_mss(u16::from_be_bytes([*high, *low])),
                    (WINDOW_SCALE, [scale]) => expected.with_window_scale(*scale),
                    (SACK_PERMITTED, []) => expected.with_sack(),
                    (TIMESTAMPS, [a, b, c, d, _, _, _, _]) => expected.with_timestamp(u32::from_be_bytes([*a, *b, *c, *d])),
                    _ => expected,
                };
            }
            bytes.resize(bytes.len().next_multiple_of(4), END);
            let found = read(&bytes);
            prop_assert_eq!(
                (found.mss(), found.window_scale(), found.sack(), found.timestamp()),
                (expected.mss(), expected.window_scale(), expected.sack(), expected.timestamp())
            );
            let signature = written.iter().find(|(kind, _)| [MD5_SIGNATURE, AUTHENTICATION].contains(kind));
            let is_right = signature.is_some_and(|(kind, data)| if *kind == AUTHENTICATION { data.len() >= 2 } else { data.len() == 16 });
            prop_assert_eq!(is_signed([&[0; 20][..], &bytes].concat().as_slice(), 0, 20 + bytes.len()), is_right);
        }

        #[test]
        fn any_options_are_read(mut bytes in proptest::collection::vec(any::<u8>(), 0..=40)) {
            bytes.resize(bytes.len() / 4 * 4, 0);
            prop_assert!(read(&bytes).window_scale().unwrap_or(0) <= 14);
        }

        #[test]
        fn what_is_packed_can_be_read(mss in any::<u16>(), scale in proptest::option::of(0u8..15), sack in any::<bool>(), stamp in any::<Option<u32>>()) {
            let packed = SynOptions::from_packed(options(mss, scale, sack, stamp).packed());
            prop_assert_eq!((packed.mss(), packed.window_scale(), packed.sack(), packed.timestamp()), (mss, scale, sack, stamp));
        }
    }
}

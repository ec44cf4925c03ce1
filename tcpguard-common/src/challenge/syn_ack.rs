//! The answer to a SYN: a SYN-ACK with a cookie as its sequence number, in the layout that the kernel uses
//! (`tcp_synack_options` and `tcp_options_write` in net/ipv4/tcp_output.c).

use super::{
    syn_options::SynOptions,
    timestamp::{Agreed, timestamp},
};
use crate::{
    abi::port::{PortChallenge, port_flag},
    address::Address,
    checksum::{checksum, sum},
    packet::{Flags, Segment, TCP_HEADER_LENGTH, TCP_PROTOCOL},
    wire::Be16,
};

/// The length of an IPv4 header without options, in bytes.
pub const IPV4_HEADER_LENGTH: usize = 20;
/// The length of an IPv6 header without extension headers, in bytes.
pub const IPV6_HEADER_LENGTH: usize = 40;
/// The minimum length of an Ethernet frame without its check sequence, in bytes.
pub const MIN_FRAME: usize = 60;
/// The length of a TCP header with only the MSS option, in bytes.
pub const PLAIN_LENGTH: usize = 24;
/// The length of a TCP header with timestamps but no window scale, in bytes.
pub const UNSCALED_LENGTH: usize = 36;
/// The length of a TCP header with timestamps and a window scale, in bytes.
pub const FULL_LENGTH: usize = 40;

const DO_NOT_FRAGMENT: u16 = 0x4000;
const MSS_OPTION: u16 = 0x0204;
const SACK_OPTION: u16 = 0x0402;
const TIMESTAMPS_OPTION: u16 = 0x080a;
const TWO_FILLING_BYTES: u16 = 0x0101;
const FILLING_BYTE_AND_SCALE: u16 = 0x0103;
const SCALE_LENGTH: u16 = 0x0300;

/// The cookie that the kernel generates for a SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cookie {
    /// The sequence number of the answer.
    pub sequence: u32,
    /// The MSS that the cookie encodes, in bytes.
    pub mss: u16,
}

/// A TCP header with options, as sent in a packet. It is divided into parts, the last of which may be unused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SynAck {
    /// The fixed header and the MSS option.
    pub head: [Be16; PLAIN_LENGTH / 2],
    /// The SACK-permitted option (or padding) and the timestamps option.
    pub stamps: [Be16; (UNSCALED_LENGTH - PLAIN_LENGTH) / 2],
    /// The window scale option.
    pub scale: [Be16; (FULL_LENGTH - UNSCALED_LENGTH) / 2],
    /// The length of the header in bytes.
    pub length: usize,
}

impl SynAck {
    /// Creates the answer to `segment`. `milliseconds` is the current time of the kernel's TCP timestamp clock.
    #[inline(always)]
    pub fn new(
        segment: &Segment,
        options: SynOptions,
        cookie: Cookie,
        terms: &PortChallenge,
        milliseconds: u32,
    ) -> Self {
        const NOTHING: Be16 = Be16::new(0);
        let mut answer = Self { head: [NOTHING; 12], stamps: [NOTHING; 6], scale: [NOTHING; 2], length: PLAIN_LENGTH };
        let mut flags = Flags::SYN | Flags::ACK;
        // Without timestamps, the kernel could not recover the other options.
        if terms.has(port_flag::TIMESTAMPS)
            && let Some(echo) = options.timestamp()
        {
            let agreed = Agreed {
                window_scale: if terms.has(port_flag::WINDOW_SCALING) { options.window_scale() } else { None },
                sack: options.sack() && terms.has(port_flag::SACK),
                ecn: asks_for_ecn(segment) && terms.has(port_flag::ECN),
            };
            if agreed.ecn {
                flags |= Flags::ECE;
            }
            answer.add_stamps(timestamp(milliseconds, agreed), echo, agreed.sack);
            if agreed.window_scale.is_some() {
                answer.scale = [Be16::new(FILLING_BYTE_AND_SCALE), Be16::new(SCALE_LENGTH | terms.window_scale as u16)];
                answer.length = FULL_LENGTH;
            }
        }
        let most_mss = if segment.source.is_ipv4() { terms.most_mss_ipv4 } else { terms.most_mss_ipv6 };
        let mss = if cookie.mss < most_mss { cookie.mss } else { most_mss };
        let numbers = [cookie.sequence, segment.sequence.wrapping_add(1)];
        let [a, b, c, d, e, f, g, h, i, j] = fixed_header(segment, numbers, answer.length, flags, terms.window);
        answer.head = [a, b, c, d, e, f, g, h, i, j, Be16::new(MSS_OPTION), Be16::new(mss)];
        answer.head[8] = answer.checksum(segment);
        answer
    }

    #[inline(always)]
    fn add_stamps(&mut self, timestamp: u32, echo: u32, sack: bool) {
        let ([value_high, value_low], [echo_high, echo_low]) = (halves(timestamp), halves(echo));
        let sack = Be16::new(if sack { SACK_OPTION } else { TWO_FILLING_BYTES });
        self.stamps = [sack, Be16::new(TIMESTAMPS_OPTION), value_high, value_low, echo_high, echo_low];
        self.length = UNSCALED_LENGTH;
    }

    #[inline(always)]
    fn checksum(&self, segment: &Segment) -> Be16 {
        checksum(pseudo_header(segment, self.length) + sum(&self.head) + sum(&self.stamps) + sum(&self.scale))
    }
}

/// Returns a SYN-ACK without options that acknowledges a number of one's own choice.
#[inline(always)]
pub fn without_options(
    segment: &Segment,
    sequence: u32,
    acknowledgement: u32,
    window: u16,
) -> [Be16; TCP_HEADER_LENGTH / 2] {
    let numbers = [sequence, acknowledgement];
    let mut header = fixed_header(segment, numbers, TCP_HEADER_LENGTH, Flags::SYN | Flags::ACK, window);
    header[8] = checksum(pseudo_header(segment, TCP_HEADER_LENGTH) + sum(&header));
    header
}

/// Returns the TCP header of an answer to `segment`, of `length` bytes with its options, without them and without a checksum.
/// `numbers` are those of sequence and acknowledgement.
#[inline(always)]
fn fixed_header(
    segment: &Segment,
    numbers: [u32; 2],
    length: usize,
    flags: u8,
    window: u16,
) -> [Be16; TCP_HEADER_LENGTH / 2] {
    const NOTHING: Be16 = Be16::new(0);
    let [sequence, acknowledgement] = [halves(numbers[0]), halves(numbers[1])];
    [
        Be16::new(segment.destination_port),
        Be16::new(segment.source_port),
        sequence[0],
        sequence[1],
        acknowledgement[0],
        acknowledgement[1],
        Be16::new((length as u16 / 4) << 12 | flags as u16),
        Be16::new(window),
        NOTHING,
        NOTHING,
    ]
}

#[inline(always)]
fn pseudo_header(segment: &Segment, length: usize) -> u32 {
    segment.source.sum() + segment.destination.sum() + sum(&[Be16::new(TCP_PROTOCOL as u16), Be16::new(length as u16)])
}

#[inline(always)]
const fn halves(value: u32) -> [Be16; 2] {
    [Be16::new((value >> 16) as u16), Be16::new(value as u16)]
}

/// Returns the IPv4 header of a packet with `payload` bytes after it, as in the kernel's SYN-ACKs.
#[inline(always)]
pub fn ipv4_header(source: Address, destination: Address, payload: usize, time_to_live: u8) -> [Be16; 10] {
    let (source, destination) = (source.ipv4_fields(), destination.ipv4_fields());
    let mut words = [
        Be16::new(0x4500),
        Be16::new((IPV4_HEADER_LENGTH + payload) as u16),
        Be16::new(0),
        Be16::new(DO_NOT_FRAGMENT),
        Be16::new((time_to_live as u16) << 8 | TCP_PROTOCOL as u16),
        Be16::new(0),
        source[0],
        source[1],
        destination[0],
        destination[1],
    ];
    words[5] = checksum(sum(&words));
    words
}

/// Returns the fields before the addresses in the IPv6 header of a packet with `payload` bytes after it.
#[inline(always)]
pub const fn ipv6_head(payload: usize, hop_limit: u8) -> [Be16; 4] {
    let protocol_and_hops = (TCP_PROTOCOL as u16) << 8 | hop_limit as u16;
    [Be16::new(0x6000), Be16::new(0), Be16::new(payload as u16), Be16::new(protocol_and_hops)]
}

/// Returns whether a SYN requests explicit congestion notification: both flags are set (RFC 3168), and either
/// the packet itself is not ECN-capable or the bits added by accurate ECN are set (`tcp_ecn_create_request`).
#[inline(always)]
pub const fn asks_for_ecn(segment: &Segment) -> bool {
    const BOTH: u8 = Flags::ECE | Flags::CWR;
    const CAPABLE: u8 = 3;
    segment.flags.0 & BOTH == BOTH && (segment.service & CAPABLE == 0 || segment.reserved != 0)
}

/// The layout above assumes a fixed header of 20 bytes.
const _: () = assert!(TCP_HEADER_LENGTH == 20);

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn segment(source: &str, destination: &str) -> Segment {
        let address = |text: &str| Address::from(text.parse::<IpAddr>().expect("an address"));
        Segment {
            source: address(source),
            destination: address(destination),
            source_port: 40_000,
            destination_port: 443,
            sequence: u32::MAX,
            acknowledgement: 0,
            flags: Flags(Flags::SYN),
            reserved: 0,
            service: 0,
            time_to_live: 0,
            window: Be16::new(0),
            first_option: Default::default(),
            payload_length: 0,
            ip_offset: 14,
            tcp_offset: 34,
            header_length: 40,
        }
    }

    fn with_ecn(segment: Segment) -> Segment {
        Segment { flags: Flags(Flags::SYN | Flags::ECE | Flags::CWR), ..segment }
    }

    fn terms() -> PortChallenge {
        PortChallenge {
            flags: port_flag::TIMESTAMPS | port_flag::SACK | port_flag::WINDOW_SCALING | port_flag::ECN,
            most_mss_ipv4: 1460,
            most_mss_ipv6: 1440,
            window: 64_240,
            window_scale: 7,
            ..PortChallenge::default()
        }
    }

    const COOKIE: Cookie = Cookie { sequence: 0x0a0b_0c0d, mss: 1460 };

    fn all() -> SynOptions {
        SynOptions::default().with_mss(1460).with_window_scale(10).with_sack().with_timestamp(77)
    }

    fn bytes(answer: &SynAck) -> Vec<u8> {
        let words = answer.head.iter().chain(&answer.stamps).chain(&answer.scale).take(answer.length / 2);
        words.flat_map(|word| word.get().to_be_bytes()).collect()
    }

    #[test]
    fn all_options() {
        let answer = SynAck::new(&with_ecn(segment("198.18.0.9", "198.18.0.1")), all(), COOKIE, &terms(), 0x1_003f);
        assert_eq!(
            bytes(&answer),
            [
                1, 187, 156, 64, 10, 11, 12, 13, 0, 0, 0, 0, 0xa0, 0x52, 250, 240, 11, 245, 0, 0, 2, 4, 5, 180, 4, 2,
                8, 10, 0, 1, 0, 0x3a, 0, 0, 0, 77, 1, 3, 3, 7
            ]
        );
    }

    #[test]
    fn fewer_options() {
        let segment = with_ecn(segment("2001:db8::9", "2001:db8::1"));
        let unscaled = SynOptions::default().with_mss(1460).with_timestamp(77);
        let answer = bytes(&SynAck::new(&segment, unscaled, COOKIE, &terms(), 64));
        assert_eq!(answer[12..14], [0x90, 0x52]);
        assert_eq!(answer[20..], [2, 4, 5, 0xa0, 1, 1, 8, 10, 0, 0, 0, 0x2f, 0, 0, 0, 77]);
        // Without timestamps, only the MSS: the kernel could not recover the other options.
        let plain = SynOptions::default().with_mss(1460).with_window_scale(10).with_sack();
        let answer = bytes(&SynAck::new(&segment, plain, COOKIE, &terms(), 64));
        assert_eq!((&answer[12..14], &answer[20..]), (&[0x60, 0x12][..], &[2, 4, 5, 0xa0][..]));
        let none = PortChallenge { flags: 0, most_mss_ipv6: 1220, ..terms() };
        let answer = bytes(&SynAck::new(&segment, all(), COOKIE, &none, 64));
        assert_eq!((&answer[12..14], &answer[20..]), (&[0x60, 0x12][..], &[2, 4, 4, 0xc4][..]));
    }

    #[test]
    fn checksums_add_up() {
        for (source, destination) in [("198.18.0.9", "198.18.0.1"), ("2001:db8::9", "2001:db8::1")] {
            let segment = segment(source, destination);
            for milliseconds in 0..1000 {
                let answer = SynAck::new(&segment, all(), COOKIE, &terms(), milliseconds);
                let octets = |address: Address| {
                    if address.is_ipv4() { address.octets()[12..].to_vec() } else { address.octets().to_vec() }
                };
                let mut all = [octets(segment.source), octets(segment.destination)].concat();
                all.extend([0, 6, 0, answer.length as u8]);
                all.extend(bytes(&answer));
                let sum: u32 = all.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
                assert_eq!(((sum & 0xffff) + (sum >> 16)) & 0xffff, 0xffff);
            }
        }
        let words = ipv4_header(segment("1.2.3.4", "5.6.7.8").source, Address::default(), 40, 64);
        let sum: u32 = words.iter().map(|word| u32::from(word.get())).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }

    #[test]
    fn congestion_notification_is_asked_for_by_both_flags() {
        let asks = |flags: u8, service: u8, reserved: u8| {
            asks_for_ecn(&Segment { flags: Flags(flags), service, reserved, ..segment("198.18.0.9", "198.18.0.1") })
        };
        assert!(asks(0xc2, 0, 0));
        assert!(!asks(0x42, 0, 0));
        assert!(!asks(0xc2, 2, 0), "the packet itself is ECN-capable");
        assert!(asks(0xc2, 2, 1), "accurate ECN");
    }

    #[test]
    fn headers_are_as_the_kernel_writes_them() {
        let address = |text: &str| -> Address { text.parse::<IpAddr>().expect("an address").into() };
        let words = ipv4_header(address("198.18.0.1"), address("203.0.113.9"), 24, 63).map(Be16::get);
        assert_eq!(words, [0x4500, 44, 0, 0x4000, 0x3f06, words[5], 0xc612, 1, 0xcb00, 0x7109]);
        let sum = words.iter().map(|word| u32::from(*word)).sum::<u32>();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "the checksum");
        assert_eq!(ipv6_head(40, 61).map(Be16::get), [0x6000, 0, 40, 0x063d]);
    }
}

//! Frames are assembled here by hand, field by field, so that the parser is not tested against its own
//! definition of a header.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

fn ethernet(kinds: &[u16]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for (index, kind) in kinds.iter().enumerate() {
        frame.extend(kind.to_be_bytes());
        if index + 1 < kinds.len() {
            frame.extend([0, 7]);
        }
    }
    frame
}

fn tcp(flags: u8, payload: usize) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(40_000u16.to_be_bytes());
    header.extend(443u16.to_be_bytes());
    header.extend(0x0102_0304u32.to_be_bytes());
    header.extend([0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    header.resize(20 + payload, 0xaa);
    header
}

fn ipv4(option_words: u8, fragment: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let header_length = 20 + 4 * usize::from(option_words);
    let mut header = vec![0x45 + option_words, 0];
    header.extend(u16::try_from(header_length + payload.len()).expect("short").to_be_bytes());
    header.extend([0, 1]);
    header.extend(fragment.to_be_bytes());
    header.extend([64, protocol, 0, 0, 198, 18, 0, 9, 198, 18, 0, 1]);
    header.resize(header_length, 1);
    header.extend(payload);
    header
}

fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0];
    header.extend(u16::try_from(payload.len()).expect("short").to_be_bytes());
    header.extend([next, 64]);
    header.extend("2001:db8::9".parse::<Ipv6Addr>().expect("an address").octets());
    header.extend("2001:db8::1".parse::<Ipv6Addr>().expect("an address").octets());
    header.extend(payload);
    header
}

fn extension(next: u8, units: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![next, units];
    header.resize(8 * (usize::from(units) + 1), 0);
    header.extend(payload);
    header
}

fn frame(kinds: &[u16], datagram: Vec<u8>) -> Vec<u8> {
    let mut frame = ethernet(kinds);
    frame.extend(datagram);
    frame
}

fn parse_bytes(frame: &[u8]) -> Result<Segment, Unread> {
    struct Bytes<'a>(&'a [u8]);
    impl PacketBytes for Bytes<'_> {
        fn read<T: zerocopy::FromBytes + zerocopy::Immutable + Copy>(&self, offset: usize) -> Option<T> {
            assert_eq!(offset % 2, 0, "the datapath reads at even offsets only");
            assert!(align_of::<T>() <= 2);
            self.0.read(offset)
        }
    }
    parse(&Bytes(frame)).map(unplaced)
}

/// Clears the fields that expected segments do not specify.
fn unplaced(segment: Segment) -> Segment {
    Segment {
        service: 0,
        time_to_live: 0,
        reserved: 0,
        window: Be16::new(0),
        first_option: FirstOption::default(),
        ip_offset: 0,
        tcp_offset: 0,
        header_length: 0,
        ..segment
    }
}

fn expected_ipv4(flags: u8, payload_length: u16) -> Segment {
    Segment {
        reserved: 0,
        service: 0,
        time_to_live: 0,
        ip_offset: 0,
        tcp_offset: 0,
        header_length: 0,
        source: Ipv4Addr::new(198, 18, 0, 9).into(),
        destination: Ipv4Addr::new(198, 18, 0, 1).into(),
        source_port: 40_000,
        destination_port: 443,
        sequence: 0x0102_0304,
        acknowledgement: 0,
        flags: Flags(flags),
        window: Be16::new(0),
        first_option: FirstOption::default(),
        payload_length,
    }
}

fn expected_ipv6(flags: u8) -> Segment {
    Segment {
        source: "2001:db8::9".parse::<Ipv6Addr>().expect("an address").into(),
        destination: "2001:db8::1".parse::<Ipv6Addr>().expect("an address").into(),
        ..expected_ipv4(flags, 0)
    }
}

#[test]
fn plain_and_tagged_frames() {
    for kinds in [&[0x0800][..], &[0x8100, 0x0800], &[0x88a8, 0x8100, 0x0800], &[0x9100, 0x8100, 0x0800]] {
        let frame = frame(kinds, ipv4(0, 0x4000, 6, &tcp(Flags::SYN, 0)));
        assert_eq!(parse_bytes(&frame), Ok(expected_ipv4(Flags::SYN, 0)), "{kinds:x?}");
    }
    let three = frame(&[0x88a8, 0x8100, 0x8100, 0x0800], ipv4(0, 0, 6, &tcp(Flags::SYN, 0)));
    assert_eq!(parse_bytes(&three), Err(Unread::TooManyTags));
}

#[test]
fn headers_are_found() {
    let place = |frame: &[u8]| {
        let segment = parse(frame).expect("a segment");
        (segment.ip_offset, segment.tcp_offset, segment.header_length)
    };
    let mut segment = tcp(Flags::SYN, 20);
    segment[12] = 0xa0;
    assert_eq!(place(&frame(&[0x0800], ipv4(2, 0, 6, &segment))), (14, 42, 40));
    assert_eq!(place(&frame(&[0x88a8, 0x8100, 0x86dd], ipv6(60, &extension(6, 1, &tcp(2, 0))))), (22, 78, 20));
}

#[test]
fn the_source_is_known_of_what_cannot_be_read() {
    let source_of = |frame: Vec<u8>| source(frame.as_slice()).map(|address| address.to_string());
    let fragment = frame(&[0x0800], ipv4(0, 0x0005, 6, &[0; 8]));
    assert_eq!(parse_bytes(&fragment), Err(Unread::LaterFragment));
    assert_eq!(source_of(fragment).as_deref(), Some("198.18.0.9"));
    let tagged = frame(&[0x8100, 0x86dd], ipv6(17, &[0; 8]));
    assert_eq!(source_of(tagged).as_deref(), Some("2001:db8::9"));
    assert_eq!(source_of(frame(&[0x0806], vec![0; 28])), None);
}

#[test]
fn ipv4_options_and_payload() {
    for words in 0..=10 {
        let frame = frame(&[0x0800], ipv4(words, 0, 6, &tcp(Flags::ACK, 33)));
        assert_eq!(parse_bytes(&frame), Ok(expected_ipv4(Flags::ACK, 33)), "{words} words of options");
    }
}

#[test]
fn fragments() {
    let ipv4 =
        |fragment: u16, flags: u8, length: usize| frame(&[0x0800], ipv4(0, fragment, 6, &tcp(flags, 20)[..length]));
    assert_eq!(parse_bytes(&ipv4(0x2000, Flags::ACK, 40)), Ok(expected_ipv4(Flags::ACK, 20)));
    assert_eq!(parse_bytes(&ipv4(0x2000, Flags::SYN, 40)), Err(Unread::FragmentedSyn));
    assert_eq!(parse_bytes(&ipv4(0x2000, Flags::SYN, 16)), Err(Unread::TinyFragment));
    assert_eq!(parse_bytes(&ipv4(0x0000, Flags::SYN, 16)), Err(Unread::Truncated));
    assert_eq!(parse_bytes(&ipv4(0x0001, Flags::SYN, 40)), Err(Unread::TinyFragment));
    assert_eq!(parse_bytes(&ipv4(0x0002, Flags::SYN, 40)), Err(Unread::LaterFragment));

    let ipv6 = |fragment: u16, next: u8, payload: &[u8]| {
        let [high, low] = fragment.to_be_bytes();
        frame(&[0x86dd], ipv6(44, &[&[next, 0, high, low, 0, 0, 0, 7][..], payload].concat()))
    };
    assert_eq!(parse_bytes(&ipv6(0, 6, &tcp(Flags::SYN, 0))), Ok(expected_ipv6(Flags::SYN)), "a fragment of one");
    assert_eq!(parse_bytes(&ipv6(1, 6, &tcp(Flags::ACK, 0))), Ok(expected_ipv6(Flags::ACK)));
    assert_eq!(parse_bytes(&ipv6(1, 6, &tcp(Flags::SYN, 0))), Err(Unread::FragmentedSyn));
    assert_eq!(parse_bytes(&ipv6(1, 6, &tcp(Flags::SYN, 0)[..16])), Err(Unread::TinyFragment));
    assert_eq!(parse_bytes(&ipv6(1, 60, &[])), Err(Unread::TinyFragment), "it ends within its extensions");
    assert_eq!(parse_bytes(&ipv6(9, 6, &tcp(Flags::SYN, 0))), Err(Unread::TinyFragment));
    assert_eq!(parse_bytes(&ipv6(9, 60, &tcp(Flags::SYN, 0))), Err(Unread::LaterFragment));
    assert_eq!(parse_bytes(&ipv6(17, 6, &tcp(Flags::SYN, 0))), Err(Unread::LaterFragment));
    assert_eq!(parse_bytes(&ipv6(17, 17, &[0; 20])), Err(Unread::NotTcp), "of a datagram of UDP");
}

#[test]
fn jumbograms() {
    let jumbogram = |next: u8, payload: &[u8]| {
        let mut datagram = ipv6(next, payload);
        datagram[4..6].fill(0);
        parse_bytes(&frame(&[0x86dd], datagram))
    };
    // The kernel reads it although nothing says that it is one.
    assert_eq!(jumbogram(0, &extension(6, 0, &tcp(Flags::SYN, 0))), Err(Unread::FragmentedSyn));
    assert!(jumbogram(0, &extension(6, 0, &tcp(Flags::ACK, 0))).is_ok());
    assert_eq!(jumbogram(6, &tcp(Flags::SYN, 0)), Err(Unread::TinyFragment));
    assert_eq!(jumbogram(60, &extension(6, 0, &tcp(Flags::SYN, 0))), Err(Unread::FragmentedSyn));
}

#[test]
fn ipv6_extension_headers() {
    let segment = tcp(Flags::SYN, 0);
    for (first, datagram) in [
        (6, segment.clone()),
        (0, extension(6, 0, &segment)),
        (60, extension(6, 3, &segment)),
        (43, extension(60, 1, &extension(6, 0, &segment))),
        (0, extension(43, 0, &extension(60, 0, &extension(6, 2, &segment)))),
    ] {
        assert_eq!(parse_bytes(&frame(&[0x86dd], ipv6(first, &datagram))), Ok(expected_ipv6(Flags::SYN)));
    }
    // Authentication header: the length is in 4-byte words, minus two.
    let mut authenticated = vec![6, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    authenticated.extend(&segment);
    assert_eq!(parse_bytes(&frame(&[0x86dd], ipv6(51, &authenticated))), Ok(expected_ipv6(Flags::SYN)));
}

#[test]
fn a_chain_of_extensions_is_followed_so_far() {
    let chain = |length: usize| {
        let mut datagram = tcp(Flags::SYN, 0);
        let mut next = 6;
        for _ in 0..length {
            datagram = extension(next, 0, &datagram);
            next = 60;
        }
        frame(&[0x86dd], ipv6(next, &datagram))
    };
    assert_eq!(parse_bytes(&chain(MAX_EXTENSION_HEADERS)), Ok(expected_ipv6(Flags::SYN)));
    assert_eq!(parse_bytes(&chain(MAX_EXTENSION_HEADERS + 1)), Err(Unread::TooManyExtensions));
}

#[test]
fn extensions_may_be_so_long() {
    let behind = |units: u8| frame(&[0x86dd], ipv6(60, &extension(6, units, &tcp(Flags::SYN, 0))));
    let most = u8::try_from(MAX_EXTENSIONS_LENGTH / 8).expect("a byte");
    assert_eq!(parse_bytes(&behind(most - 1)), Ok(expected_ipv6(Flags::SYN)));
    assert_eq!(parse_bytes(&behind(most)), Err(Unread::TooManyExtensions));
}

#[test]
fn extensions_beyond_the_packet_are_no_extensions() {
    let mut long = frame(&[0x86dd], ipv6(60, &extension(6, 1, &tcp(Flags::SYN, 0))));
    // The payload would end within the extension header.
    long[14 + 4..14 + 6].copy_from_slice(&8_u16.to_be_bytes());
    assert_eq!(parse_bytes(&long), Err(Unread::Truncated));
}

#[test]
fn small_fields_are_read() {
    let mut datagram = ipv6(6, &tcp(Flags::SYN, 0));
    (datagram[0], datagram[1]) = (0x6a, 0xb3);
    let segment = packet_of(&frame(&[0x86dd], datagram));
    assert_eq!(segment.service, 0xab, "the traffic class");
    let mut datagram = ipv4(0, 0, 6, &tcp(Flags::SYN, 0));
    (datagram[1], datagram[20 + 12]) = (0xcd, 0x5a);
    let whole = frame(&[0x0800], datagram);
    let segment = packet_of(&whole);
    assert_eq!((segment.service, segment.reserved), (0xcd, 0x0a));
    assert_eq!((segment.ip_offset, segment.tcp_offset, segment.header_length), (14, 34, 20));
    assert_eq!(segment.first_option, FirstOption::default(), "no options");
    let again = Segment::at(whole.as_slice(), segment.place()).expect("the same segment");
    assert_eq!((again.tcp_offset, again.reserved, again.destination_port), (34, 0x0a, 443));
}

#[test]
fn the_shape_of_a_syn_is_read() {
    let mut segment = tcp(Flags::SYN | Flags::ECE, 0);
    (segment[12], segment[14], segment[15]) = (0x60, 0x12, 0x34);
    segment.extend([2, 4, 5, 0xb4]);
    let mut datagram = ipv4(0, 0, 6, &segment);
    datagram[8] = 57;
    let shape = Shape::of(&packet_of(&frame(&[0x0800], datagram)));
    assert_eq!(shape, Shape(0x0204_05b4_2639_1234));
    assert_eq!((shape.window(), shape.time_to_live(), shape.header_length()), (0x1234, 57, 24));
    assert_eq!((shape.first_option(), shape.is_ipv6()), (0x0204_05b4, false));
}

fn packet_of(frame: &[u8]) -> Segment {
    parse(frame).expect("a segment")
}

#[test]
fn what_is_not_tcp_over_ip() {
    assert_eq!(parse_bytes(&frame(&[0x0806], vec![0; 28])), Err(Unread::NotIp));
    assert_eq!(parse_bytes(&frame(&[0x0800], ipv4(0, 0, 17, &[0; 20]))), Err(Unread::NotTcp));
    assert_eq!(parse_bytes(&frame(&[0x86dd], ipv6(58, &[0; 20]))), Err(Unread::NotTcp));
    let mut mapped = ipv6(6, &tcp(2, 0));
    mapped[8..24].copy_from_slice(&Ipv4Addr::new(198, 18, 0, 9).to_ipv6_mapped().octets());
    assert_eq!(parse_bytes(&frame(&[0x86dd], mapped)), Err(Unread::BadIpHeader));
    assert_eq!(parse_bytes(&frame(&[0x86dd], ipv4(0, 0, 6, &tcp(2, 0)))), Err(Unread::BadIpHeader));
    assert_eq!(parse_bytes(&frame(&[0x0800], ipv6(6, &tcp(2, 0)))), Err(Unread::BadIpHeader));
}

#[test]
fn headers_that_lie_about_their_length() {
    let mut short_ip = ipv4(0, 0, 6, &tcp(2, 0));
    short_ip[0] = 0x44;
    assert_eq!(parse_bytes(&frame(&[0x0800], short_ip)), Err(Unread::BadIpHeader));
    let mut short_tcp = tcp(2, 0);
    short_tcp[12] = 0x40;
    assert_eq!(parse_bytes(&frame(&[0x0800], ipv4(0, 0, 6, &short_tcp))), Err(Unread::BadDataOffset));
    let mut long_tcp = tcp(2, 0);
    long_tcp[12] = 0xf0;
    assert_eq!(parse_bytes(&frame(&[0x0800], ipv4(0, 0, 6, &long_tcp))), Err(Unread::Truncated));
    let mut short_total = ipv4(0, 0, 6, &tcp(2, 0));
    short_total[3] = 39;
    assert_eq!(parse_bytes(&frame(&[0x0800], short_total)), Err(Unread::Truncated));
}

#[test]
fn padding_behind_the_packet_is_no_payload() {
    let mut padded = frame(&[0x0800], ipv4(0, 0, 6, &tcp(Flags::SYN, 0)));
    padded.resize(60, 0);
    assert_eq!(parse_bytes(&padded), Ok(expected_ipv4(Flags::SYN, 0)));
}

#[test]
fn every_truncation_says_so() {
    let mut with_options = tcp(Flags::SYN, 20);
    with_options[12] = 0xa0;
    let whole = [
        frame(&[0x0800], ipv4(0, 0, 6, &with_options)),
        frame(&[0x88a8, 0x8100, 0x0800], ipv4(3, 0, 6, &tcp(Flags::SYN, 0))),
        frame(&[0x86dd], ipv6(0, &extension(43, 1, &extension(6, 0, &tcp(Flags::SYN, 0))))),
    ];
    for frame in whole {
        for length in 0..frame.len() {
            assert_eq!(parse_bytes(&frame[..length]), Err(Unread::Truncated), "{length} of {} bytes", frame.len());
        }
        assert!(parse_bytes(&frame).is_ok());
    }
}

#[test]
fn flags_are_sorted() {
    use SegmentKind::{Ack, BadFlags, Rst, Syn, SynAck};
    let (fin, syn, rst, psh, ack, urg) = (Flags::FIN, Flags::SYN, Flags::RST, Flags::PSH, Flags::ACK, Flags::URG);
    for (flags, kind) in [
        (syn, Syn),
        (syn | 0xc0, Syn),
        (syn | psh, Syn),
        (syn | ack, SynAck),
        (syn | ack | 0x40, SynAck),
        (ack, Ack),
        (ack | psh, Ack),
        (ack | fin, Ack),
        (rst, Rst),
        (rst | ack, Rst),
        (0, BadFlags),
        (fin, BadFlags),
        (fin | psh | urg, BadFlags),
        (syn | fin, BadFlags),
        (syn | rst, BadFlags),
        (syn | ack | fin, BadFlags),
        (rst | fin, BadFlags),
        (0x3f, BadFlags),
    ] {
        assert_eq!(Flags(flags).kind(), kind, "{flags:#04x}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(parse_bytes(&bytes).is_ok() || parse_bytes(&bytes).is_err());
    }

    #[test]
    fn any_bytes_behind_an_ethernet_header_too(kind in prop_oneof![Just(0x0800u16), Just(0x86dd)], first in any::<u8>(), bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut datagram = bytes;
        datagram.insert(0, if kind == 0x0800 { 0x40 | first & 0x0f } else { 0x60 });
        if let Ok(segment) = parse_bytes(&frame(&[kind], datagram)) {
            prop_assert_eq!(segment.source.is_ipv4(), kind == 0x0800);
        }
    }
}

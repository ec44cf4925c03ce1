//! Named frames of every shape, and how each is counted.

#![expect(clippy::expect_used, reason = "constants, which always parse")]

use std::net::IpAddr;

use tcpguard_common::{
    abi::counters::{Counter, DropReason},
    packet::{MAX_EXTENSION_HEADERS, MAX_EXTENSIONS_LENGTH},
};

use crate::frame::{ACK, FIN, Frame, PSH, RST, SYN, URG};

/// Returns a SYN over IPv4.
pub fn ipv4() -> Frame {
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    Frame::syn(address("198.18.1.1"), address("198.18.0.1"), 80)
}

/// Returns a SYN over IPv6.
pub fn ipv6() -> Frame {
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    Frame::syn(address("2001:db8:1::1"), address("2001:db8::1"), 80)
}

/// Returns an IPv6 extension header of type `kind` with `units` units of eight bytes beyond the first.
pub fn extension(kind: u8, units: u8) -> (u8, Vec<u8>) {
    let mut body = vec![0; 8 * (usize::from(units) + 1)];
    body[1] = units;
    (kind, body)
}

/// Returns named frames with the counter that each increases in addition to `packets`.
pub fn table() -> Vec<(String, Vec<u8>, Counter)> {
    let mut table = Vec::new();
    for (family, plain) in [("IPv4", ipv4()), ("IPv6", ipv6())] {
        for (flags, name, counter) in [
            (ACK, "ACK", Counter::Ack),
            (ACK | PSH, "data", Counter::Ack),
            (ACK | FIN, "FIN", Counter::Ack),
            (SYN | ACK, "SYN-ACK", Counter::SynAck),
            (RST, "RST", Counter::Rst),
            (RST | ACK, "RST-ACK", Counter::Rst),
            (0, "no flag", Counter::BadFlags),
            (FIN | PSH | URG, "Christmas tree", Counter::BadFlags),
            (SYN | FIN, "SYN-FIN", Counter::BadFlags),
            (SYN | RST, "SYN-RST", Counter::BadFlags),
            (0xff, "every flag", Counter::BadFlags),
        ] {
            let frame = plain.clone().flags(flags).build().bytes;
            table.push((format!("{family} {name}"), frame, counter));
        }
        for tags in [vec![0x8100], vec![0x88a8], vec![0x88a8, 0x8100], vec![0x9100, 0x8100], vec![0x8100, 0x8100]] {
            let frame = Frame { tags: tags.clone(), ..plain.clone() }.flags(ACK).build().bytes;
            table.push((format!("{family} tagged {tags:x?}"), frame, Counter::Ack));
        }
        let three = Frame { tags: vec![0x88a8, 0x8100, 0x8100], ..plain.clone() };
        table.push((format!("{family} with three tags"), three.build().bytes, Counter::TooManyTags));
        let options = Frame { tcp_options: vec![1; 40], payload: vec![7; 100], ..plain.clone() }.flags(ACK | PSH);
        table.push((format!("{family} with TCP options and data"), options.build().bytes, Counter::Ack));
        let udp = Frame { protocol: 17, ..plain.clone() };
        table.push((format!("{family} UDP"), udp.build().bytes, Counter::NotTcp));
        let mut offset = plain.flags(ACK).build();
        offset.bytes[offset.tcp + 12] = 0x40;
        table.push((format!("{family} with a data offset of 4"), offset.bytes, Counter::BadDataOffset));
    }
    for words in 1..=10 {
        let frame = Frame { ip_options: vec![1; 4 * words], ..ipv4() }.flags(ACK).build().bytes;
        table.push((format!("IPv4 with {words} words of options"), frame, Counter::Ack));
    }
    let fragment = |fragment| Frame { fragment, payload: vec![0; 8], ..ipv4() }.flags(ACK).build().bytes;
    table.push(("IPv4 first fragment".to_owned(), fragment(0x2000), Counter::Ack));
    table.push(("IPv4 later fragment".to_owned(), fragment(0x2002), Counter::LaterFragment));
    table.push(("IPv4 fragment that begins within TCP".to_owned(), fragment(0x2001), Counter::TinyFragment));
    table.push(("IPv4 last fragment".to_owned(), fragment(0x0004), Counter::LaterFragment));
    let divided = Frame { fragment: 0x2000, ..ipv4() };
    table.push(("IPv4 SYN in fragments".to_owned(), divided.build().bytes, Counter::FragmentedSyn));
    table.push(("IPv4 fragment that ends within TCP".to_owned(), ending_within_tcp(&divided), Counter::TinyFragment));
    let mut short = ipv4().build();
    short.bytes[short.ip] = 0x44;
    table.push(("IPv4 with a header of 16 bytes".to_owned(), short.bytes, Counter::BadIpHeader));
    let mut version = ipv4().build();
    version.bytes[version.ip] = 0x65;
    table.push(("IPv4 of version 6".to_owned(), version.bytes, Counter::BadIpHeader));
    let mut version = ipv6().build();
    version.bytes[version.ip] = 0x40;
    table.push(("IPv6 of version 4".to_owned(), version.bytes, Counter::BadIpHeader));
    let mut total = ipv4().flags(ACK).build();
    total.bytes[total.ip + 3] = 39;
    table.push(("IPv4 of a length that ends within TCP".to_owned(), total.bytes, Counter::Truncated));
    let mut arp = ipv4().build().bytes;
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    table.push(("ARP".to_owned(), arp, Counter::NotIp));

    let with_extensions = |extensions| Frame { extensions, ..ipv6() }.flags(ACK).build().bytes;
    for (name, extensions) in [
        ("hop-by-hop", vec![extension(0, 0)]),
        ("routing", vec![extension(43, 2)]),
        ("destination options", vec![extension(60, 4)]),
        ("all of them", vec![extension(0, 0), extension(60, 1), extension(43, 0), extension(60, 0)]),
        ("authentication", vec![(51, [&[0, 4][..], &[0; 22]].concat())]),
        ("as many as are followed", vec![extension(60, 0); MAX_EXTENSION_HEADERS]),
    ] {
        table.push((format!("IPv6 with extensions: {name}"), with_extensions(extensions), Counter::Ack));
    }
    let fragment = |offset: u8| vec![(44, vec![0, 0, 0, offset, 0, 0, 0, 1])];
    table.push(("IPv6 first fragment".to_owned(), with_extensions(fragment(1)), Counter::Ack));
    table.push(("IPv6 later fragment".to_owned(), with_extensions(fragment(17)), Counter::LaterFragment));
    table.push((
        "IPv6 fragment that begins within TCP".to_owned(),
        with_extensions(fragment(9)),
        Counter::TinyFragment,
    ));
    let divided = Frame { extensions: fragment(1), ..ipv6() };
    table.push(("IPv6 SYN in fragments".to_owned(), divided.build().bytes, Counter::FragmentedSyn));
    table.push(("IPv6 fragment that ends within TCP".to_owned(), ending_within_tcp(&divided), Counter::TinyFragment));
    let mut chain = Frame { extensions: [fragment(1), vec![extension(60, 8)]].concat(), ..ipv6() }.build();
    chain.bytes.truncate(chain.ip + 40 + 8 + 4);
    table.push(("IPv6 fragment that ends within its extensions".to_owned(), chain.bytes, Counter::TinyFragment));
    let many = vec![extension(60, 0); MAX_EXTENSION_HEADERS + 1];
    table.push(("IPv6 with one extension too many".to_owned(), with_extensions(many), Counter::TooManyExtensions));
    let longest = (MAX_EXTENSIONS_LENGTH / 8 - 1) as u8;
    let long = |units| with_extensions(vec![extension(60, units)]);
    table.push(("IPv6 with the longest extension that is read".to_owned(), long(longest), Counter::Ack));
    table.push(("IPv6 with a longer extension".to_owned(), long(longest + 1), Counter::TooManyExtensions));
    table
}

/// Returns the frame without the last four bytes of its TCP header, with lengths to match.
fn ending_within_tcp(frame: &Frame) -> Vec<u8> {
    let mut built = frame.build();
    built.bytes.truncate(built.tcp + 16);
    let ip = &mut built.bytes[built.ip..];
    let length = ip.len() as u16;
    if frame.source.is_ipv4() {
        ip[2..4].copy_from_slice(&length.to_be_bytes());
    } else {
        ip[4..6].copy_from_slice(&(length - 40).to_be_bytes());
    }
    built.bytes
}

/// Returns named frames that are dropped regardless of their source, with the drop reason.
pub fn drop_table(family: &str, plain: &Frame) -> Vec<(String, Vec<u8>, DropReason)> {
    let built = |frame: Frame| frame.build().bytes;
    let mut table: Vec<(String, Vec<u8>, DropReason)> = [0, FIN, FIN | PSH | URG, SYN | FIN, SYN | RST, RST | FIN]
        .map(|flags| (format!("{family} flags {flags:#x}"), built(plain.clone().flags(flags)), DropReason::BadFlags))
        .into();
    let mut offset = plain.build();
    offset.bytes[offset.tcp + 12] = 0x40;
    table.push((format!("{family} data offset"), offset.bytes, DropReason::BadDataOffset));
    let divided = if plain.source.is_ipv4() {
        Frame { fragment: 0x2000, ..plain.clone() }
    } else {
        Frame { extensions: vec![(44, vec![0, 0, 0, 1, 0, 0, 0, 1])], ..plain.clone() }
    };
    table.push((format!("{family} SYN in fragments"), built(divided.clone()), DropReason::FragmentedSyn));
    table.push((format!("{family} tiny fragment"), ending_within_tcp(&divided), DropReason::TinyFragment));
    let tagged = Frame { tags: vec![0x8100; 3], ..plain.clone() };
    table.push((format!("{family} with three tags"), built(tagged), DropReason::TooManyTags));
    if plain.source.is_ipv6() {
        let mut jumbogram = Frame { extensions: vec![extension(0, 0)], ..plain.clone() }.build();
        jumbogram.bytes[jumbogram.ip + 4..jumbogram.ip + 6].fill(0);
        table.push((format!("{family} SYN without a length"), jumbogram.bytes, DropReason::FragmentedSyn));
        let many = Frame { extensions: vec![extension(60, 0); MAX_EXTENSION_HEADERS + 1], ..plain.clone() };
        table.push((format!("{family} too many extensions"), built(many), DropReason::TooManyExtensions));
    }
    let from_zero = Frame { source_port: 0, ..plain.clone() };
    let to_zero = Frame { destination_port: 0, ..plain.clone() };
    table.push((format!("{family} from port 0"), built(from_zero), DropReason::PortZero));
    table.push((format!("{family} to port 0"), built(to_zero), DropReason::PortZero));
    let with_data = Frame { payload: vec![1; 9], ..plain.clone() };
    table.push((format!("{family} with data"), built(with_data), DropReason::SynPayload));
    table
}

//! Conversion of typed or captured packets to Ethernet frames.

use std::{
    io::{BufRead, BufReader, Read},
    net::{IpAddr, SocketAddr},
};

use etherparse::{PacketBuilder, TcpOptionElement};
use pcap_file::{
    DataLink, PcapError,
    pcap::PcapReader,
    pcapng::{Block, PcapNgReader},
};
use thiserror::Error;

/// The reason why there is no packet to explain.
#[derive(Debug, Error)]
pub enum CaptureError {
    /// The text is not made of hexadecimal digits.
    #[error(
        "\"{0}\" is neither a file nor hexadecimal digits such as 0200000000010200… (an Ethernet frame or an IP packet)"
    )]
    NotHex(String),
    /// The packet is too short or too long.
    #[error("a packet must have 20 to 65,535 bytes, but this has {0}")]
    Length(usize),
    /// The addresses are of different families.
    #[error("{0} and {1} are not of the same family: both must be IPv4, or both IPv6")]
    Families(IpAddr, IpAddr),
    /// The file is not a capture.
    #[error("this is no capture in pcap or pcapng format (`tcpdump -w FILE` writes one)")]
    NotACapture,
    /// The capture's link type is not supported.
    #[error("link type {0} is not supported: capture on an Ethernet interface, or with `tcpdump -i any`")]
    LinkType(String),
    /// The capture cannot be read.
    #[error("cannot read the capture: {0}")]
    Unreadable(String),
    /// The capture is empty.
    #[error("the capture has no packets")]
    Empty,
}

/// Packets, as Ethernet frames.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Capture {
    /// The frames, in order.
    pub frames: Vec<Vec<u8>>,
    /// A sentence about packets that were not read, if any.
    pub left_out: Option<String>,
}

/// The segment of a connection that is given by its endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Segment {
    /// The SYN that opens the connection
    Syn,
    /// An ACK with data
    Ack,
    /// The FIN that closes the connection
    Fin,
    /// An RST
    Rst,
}

const ETHERNET_HEADER: usize = 14;
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];

/// Builds a segment between two endpoints, as Linux would send it.
///
/// # Errors
/// Returns an error if the addresses are of different families.
pub fn between(source: SocketAddr, destination: SocketAddr, segment: Segment) -> Result<Capture, CaptureError> {
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]);
    let ip = match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
        (from, to) => return Err(CaptureError::Families(from, to)),
    };
    let tcp = ip.tcp(source.port(), destination.port(), 1, 64_240);
    let options = [
        TcpOptionElement::MaximumSegmentSize(1460),
        TcpOptionElement::SelectiveAcknowledgementPermitted,
        TcpOptionElement::Timestamp(1, 0),
        TcpOptionElement::Noop,
        TcpOptionElement::WindowScale(7),
    ];
    let unreadable = |error: &dyn std::fmt::Display| CaptureError::Unreadable(error.to_string());
    let tcp = match segment {
        Segment::Syn => tcp.syn().options(&options).map_err(|error| unreadable(&error))?,
        Segment::Ack => tcp.ack(1).psh(),
        Segment::Fin => tcp.ack(1).fin(),
        Segment::Rst => tcp.rst(),
    };
    let mut frame = Vec::new();
    let data: &[u8] = if segment == Segment::Ack { b"data" } else { b"" };
    tcp.write(&mut frame, data).map_err(|error| unreadable(&error))?;
    Ok(Capture { frames: vec![frame], left_out: None })
}

/// Parses a packet in hexadecimal digits, ignoring spaces and colons: an Ethernet frame, or an IP packet without a
/// frame.
///
/// # Errors
/// Returns an error if `text` contains other characters, or the packet is too short or too long.
pub fn of_hex(text: &str) -> Result<Capture, CaptureError> {
    let digits: String = text.chars().filter(|character| !character.is_whitespace() && *character != ':').collect();
    let bytes = hex::decode(digits.strip_prefix("0x").unwrap_or(&digits))
        .map_err(|_| CaptureError::NotHex(text.chars().take(40).collect()))?;
    if !(20..=65_535).contains(&bytes.len()) {
        return Err(CaptureError::Length(bytes.len()));
    }
    // An IP packet contains its own length; an Ethernet frame rarely matches by chance.
    let is_ipv4 = bytes[0] >> 4 == 4 && usize::from(u16::from_be_bytes([bytes[2], bytes[3]])) == bytes.len();
    let is_ipv6 = bytes[0] >> 4 == 6
        && bytes.len() >= 40
        && usize::from(u16::from_be_bytes([bytes[4], bytes[5]])) + 40 == bytes.len();
    let frame = match (is_ipv4, is_ipv6) {
        (true, _) => with_ethernet(IPV4, &bytes),
        (_, true) => with_ethernet(IPV6, &bytes),
        _ => bytes,
    };
    Ok(Capture { frames: vec![frame], left_out: None })
}

/// Reads the first `most` packets of a capture file, and no further.
///
/// A truncated file yields the packets before the truncation.
///
/// # Errors
/// Returns an error if the file is not a capture, its link type is not supported, or it contains no packets.
pub fn read(reader: impl Read, most: usize) -> Result<Capture, CaptureError> {
    let mut reader = BufReader::new(reader);
    let start = reader.fill_buf().map_err(|error| CaptureError::Unreadable(error.to_string()))?;
    let magic: [u8; 4] = start.get(..4).and_then(|start| start.try_into().ok()).ok_or(CaptureError::NotACapture)?;
    let capture = match magic {
        [0x0a, 0x0d, 0x0d, 0x0a] => read_pcapng(reader, most)?,
        [0xa1, 0xb2, 0xc3, 0xd4] | [0xd4, 0xc3, 0xb2, 0xa1] | [0xa1, 0xb2, 0x3c, 0x4d] | [0x4d, 0x3c, 0xb2, 0xa1] => {
            read_pcap(reader, most)?
        }
        _ => return Err(CaptureError::NotACapture),
    };
    if capture.frames.is_empty() {
        Err(capture.left_out.map_or(CaptureError::Empty, CaptureError::Unreadable))
    } else {
        Ok(capture)
    }
}

fn read_pcap(reader: impl Read, most: usize) -> Result<Capture, CaptureError> {
    let mut reader = PcapReader::new(reader).map_err(|error| unreadable(&error))?;
    let link = reader.header().datalink;
    let mut capture = Capture::default();
    while let Some(packet) = reader.next_packet() {
        match packet {
            Ok(_) if capture.frames.len() == most => return Ok(capture.cut_at(most)),
            Ok(packet) => capture.frames.push(as_ethernet(link, &packet.data)?),
            Err(error) => return Ok(capture.broken(&error)),
        }
    }
    Ok(capture)
}

fn read_pcapng(reader: impl Read, most: usize) -> Result<Capture, CaptureError> {
    let mut reader = PcapNgReader::new(reader).map_err(|error| unreadable(&error))?;
    let (mut capture, mut links) = (Capture::default(), Vec::new());
    while let Some(block) = reader.next_block() {
        let (link, data) = match block {
            Err(error) => return Ok(capture.broken(&error)),
            Ok(Block::SectionHeader(_)) => {
                links.clear();
                continue;
            }
            Ok(Block::InterfaceDescription(interface)) => {
                links.push(interface.linktype);
                continue;
            }
            Ok(Block::EnhancedPacket(packet)) => (links.get(packet.interface_id as usize).copied(), packet.data),
            Ok(Block::SimplePacket(packet)) => (links.first().copied(), packet.data),
            Ok(_) => continue,
        };
        if capture.frames.len() == most {
            return Ok(capture.cut_at(most));
        }
        let link = link.ok_or_else(|| {
            CaptureError::Unreadable("a packet refers to an interface without a description".to_owned())
        })?;
        capture.frames.push(as_ethernet(link, &data)?);
    }
    Ok(capture)
}

impl Capture {
    fn cut_at(mut self, most: usize) -> Self {
        self.left_out = Some(format!("only the first {most} packets were explained"));
        self
    }

    fn broken(mut self, error: &PcapError) -> Self {
        let count = self.frames.len();
        self.left_out = Some(match error {
            error if breaks_off(error) => format!("the file breaks off after {count} packets"),
            error => format!("cannot read the file after {count} packets: {error}"),
        });
        self
    }
}

fn breaks_off(error: &PcapError) -> bool {
    match error {
        PcapError::IncompleteBuffer => true,
        PcapError::IoError(error) => error.kind() == std::io::ErrorKind::UnexpectedEof,
        _ => false,
    }
}

fn unreadable(error: &PcapError) -> CaptureError {
    match error {
        error if breaks_off(error) => CaptureError::Unreadable("it is truncated within its header".to_owned()),
        error => CaptureError::Unreadable(error.to_string()),
    }
}

/// Converts a captured packet to an Ethernet frame.
fn as_ethernet(link: DataLink, data: &[u8]) -> Result<Vec<u8>, CaptureError> {
    let by_version = |packet: &[u8]| match packet.first().map(|byte| byte >> 4) {
        Some(6) => with_ethernet(IPV6, packet),
        _ => with_ethernet(IPV4, packet),
    };
    // Offsets of the EtherType and of the payload in Linux cooked captures (`tcpdump -i any`), version 1 or 2.
    let cooked = |kind: usize, start: usize| match (data.get(kind..kind + 2), data.get(start..)) {
        (Some(kind), Some(packet)) => with_ethernet([kind[0], kind[1]], packet),
        _ => with_ethernet(IPV4, &[]),
    };
    Ok(match link {
        DataLink::ETHERNET => data.to_vec(),
        DataLink::RAW | DataLink::IPV4 | DataLink::IPV6 => by_version(data),
        DataLink::NULL | DataLink::LOOP => by_version(data.get(4..).unwrap_or_default()),
        DataLink::LINUX_SLL => cooked(14, 16),
        DataLink::Unknown(276) => cooked(0, 20),
        other => return Err(CaptureError::LinkType(format!("{other:?}"))),
    })
}

fn with_ethernet(kind: [u8; 2], packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; ETHERNET_HEADER - 2];
    frame.extend_from_slice(&kind);
    frame.extend_from_slice(packet);
    frame
}

#[cfg(test)]
mod tests {
    use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
    use proptest::prelude::*;
    use std::time::Duration;

    use super::*;
    use crate::explain::Bytes;

    fn syn() -> Vec<u8> {
        let end = |text: &str| text.parse().expect("an address and port");
        between(end("198.51.100.7:4000"), end("198.18.0.1:443"), Segment::Syn).expect("a packet").frames.remove(0)
    }

    fn pcap(datalink: DataLink, packets: &[&[u8]]) -> Vec<u8> {
        let header = PcapHeader { datalink, ..PcapHeader::default() };
        let mut writer = PcapWriter::with_header(Vec::new(), header).expect("a writer");
        for packet in packets {
            writer.write_packet(&PcapPacket::new(Duration::ZERO, packet.len() as u32, packet)).expect("written");
        }
        writer.into_writer()
    }

    #[test]
    fn ends_make_a_packet() {
        let segment = tcpguard_common::packet::parse(&Bytes(&syn())).expect("a segment");
        assert_eq!((segment.source_port, segment.destination_port, segment.flags.0), (4000, 443, 2));
        let end = |text: &str| text.parse().expect("an address and port");
        let error = between(end("[::1]:1"), end("198.18.0.1:443"), Segment::Syn).expect_err("of two families");
        assert!(error.to_string().contains("not of the same family"), "{error}");
    }

    #[test]
    fn hex_is_a_frame_or_a_packet() {
        let frame = syn();
        let spaced = frame.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":");
        assert_eq!(of_hex(&spaced).expect("hex").frames[0], frame);
        let packet = of_hex(&hex::encode(&frame[14..])).expect("hex").frames.remove(0);
        assert_eq!(packet[12..], frame[12..]);
        assert!(of_hex("no hex").expect_err("refused").to_string().contains("neither a file nor"));
        assert!(of_hex("0011").expect_err("refused").to_string().contains("this has 2"));
    }

    #[test]
    fn captures_of_every_link_layer_are_read() {
        let frame = syn();
        let packet = &frame[14..];
        let cooked = [&[0; 14][..], &[8, 0], packet].concat();
        let null = [&[2, 0, 0, 0][..], packet].concat();
        for (link, data) in [
            (DataLink::ETHERNET, frame.as_slice()),
            (DataLink::RAW, packet),
            (DataLink::LINUX_SLL, &cooked),
            (DataLink::NULL, &null),
        ] {
            let capture = read(pcap(link, &[data, data]).as_slice(), 10).expect("a capture");
            assert_eq!((capture.frames.len(), &capture.frames[1][12..]), (2, &frame[12..]), "{link:?}");
            assert_eq!(capture.left_out, None);
        }
        let error = read(pcap(DataLink::IEEE802_11, &[&frame]).as_slice(), 10).expect_err("wireless");
        assert!(error.to_string().contains("IEEE802_11"), "{error}");
    }

    #[test]
    fn a_capture_that_breaks_off_is_taken_as_far_as_it_goes() {
        let frame = syn();
        let whole = pcap(DataLink::ETHERNET, &[&frame, &frame]);
        for length in 0..whole.len() {
            match read(&whole[..length], 10) {
                Ok(capture) => {
                    let is_told = capture.left_out.is_some_and(|text| text.contains("breaks off after 1"));
                    // Cut exactly at the end of the first packet, the file looks complete.
                    assert!(capture.frames.len() == 1 && (is_told || length == 24 + 16 + frame.len()), "{length}");
                }
                Err(error) => assert!(length < 24 + 16 + frame.len(), "{length}: {error}"),
            }
        }
    }

    #[test]
    fn a_long_capture_is_not_read_to_its_end() {
        /// A file without an end that counts the bytes read.
        struct Endless(Vec<u8>, usize);
        impl Read for Endless {
            fn read(&mut self, room: &mut [u8]) -> std::io::Result<usize> {
                let (header, packet) = self.0.split_at(24);
                for byte in room.iter_mut() {
                    *byte = if self.1 < 24 { header[self.1] } else { packet[(self.1 - 24) % packet.len()] };
                    self.1 += 1;
                }
                assert!(self.1 < 8 << 20, "it reads on and on");
                Ok(room.len())
            }
        }
        let capture = read(Endless(pcap(DataLink::ETHERNET, &[&syn()]), 0), 100).expect("a capture");
        assert_eq!(capture.frames.len(), 100);
        assert!(capture.left_out.is_some_and(|text| text.contains("first 100")));
    }

    proptest! {
        #[test]
        fn no_file_does_harm(start in 0usize..6, bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            const MAGICS: [&[u8]; 6] = [&[0xa1, 0xb2, 0xc3, 0xd4], &[0xd4, 0xc3, 0xb2, 0xa1], &[0x4d, 0x3c, 0xb2, 0xa1],
                &[0x0a, 0x0d, 0x0d, 0x0a], &[], &[0xa1, 0xb2, 0x3c, 0x4d]];
            let file = [MAGICS[start], &bytes].concat();
            if let Err(error) = read(file.as_slice(), 5) {
                prop_assert!(!error.to_string().is_empty());
            }
        }
    }

    #[test]
    fn fuzz_packets_to_explain() {
        let pcap = [&0xa1b2_c3d4_u32.to_le_bytes()[..], &[2, 0, 4, 0], &[0; 8], &[0, 0, 4, 0], &[1, 0, 0, 0]].concat();
        let record = [&[0; 8][..], &[20, 0, 0, 0], &[20, 0, 0, 0], &[0x45; 20]].concat();
        let seeds: [&[u8]; 3] =
            [&[pcap, record].concat(), b"02 00 00 00 00 01 02 00 00 00 00 02 08 00 45", b"0000  02 00 00\n"];
        crate::fuzz::run(&seeds, |bytes| {
            read(bytes, 100).map(drop).unwrap_or_else(|error| assert!(!error.to_string().is_empty()));
            of_hex(&String::from_utf8_lossy(bytes))
                .map(drop)
                .unwrap_or_else(|error| assert!(!error.to_string().is_empty()));
        });
    }
}

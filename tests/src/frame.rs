//! Builds frames header by header, correct or deliberately malformed.

use std::net::IpAddr;

use crate::addresses::{CLIENT_MAC, SERVER_MAC};

/// The FIN flag.
pub const FIN: u8 = 0x01;
/// The SYN flag.
pub const SYN: u8 = 0x02;
/// The RST flag.
pub const RST: u8 = 0x04;
/// The PSH flag.
pub const PSH: u8 = 0x08;
/// The ACK flag.
pub const ACK: u8 = 0x10;
/// The URG flag.
pub const URG: u8 = 0x20;

/// The options that Linux sends in a SYN: MSS 1460, SACK, timestamps, window scale 7; 20 bytes.
pub const LINUX_SYN_OPTIONS: [u8; 20] = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];

/// A TCP segment in its frame; by default from the lab's client to its server.
#[derive(Clone, Debug)]
pub struct Frame {
    /// EtherTypes of the VLAN tags, outermost first.
    pub tags: Vec<u16>,
    /// Source address.
    pub source: IpAddr,
    /// Destination address, of the same family.
    pub destination: IpAddr,
    /// IPv4 options; a multiple of four bytes.
    pub ip_options: Vec<u8>,
    /// IPv6 extension headers: type and content, whose first byte (next header) is filled in.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// Flags and fragment offset of the IPv4 header.
    pub fragment: u16,
    /// IPv4 protocol, or next header of the last IPv6 header.
    pub protocol: u8,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// TCP flags.
    pub flags: u8,
    /// Receive window.
    pub window: u16,
    /// TTL or hop limit.
    pub time_to_live: u8,
    /// Identification of an IPv4 packet.
    pub identification: u16,
    /// Whether the frame goes from the server to the client, with the MAC addresses swapped.
    pub is_answer: bool,
    /// TCP options; a multiple of four bytes.
    pub tcp_options: Vec<u8>,
    /// TCP payload.
    pub payload: Vec<u8>,
}

/// A frame's bytes and the offsets of its headers.
#[derive(Clone, Debug)]
pub struct Built {
    /// The bytes of the frame.
    pub bytes: Vec<u8>,
    /// Offset of the IP header.
    pub ip: usize,
    /// Offset of the TCP header.
    pub tcp: usize,
}

impl Frame {
    /// Returns a SYN without options.
    pub fn syn(source: IpAddr, destination: IpAddr, destination_port: u16) -> Self {
        Self {
            tags: Vec::new(),
            source,
            destination,
            ip_options: Vec::new(),
            extensions: Vec::new(),
            fragment: 0x4000,
            protocol: 6,
            source_port: 40_000,
            destination_port,
            sequence: 1_000_000,
            acknowledgement: 0,
            window: 0xffff,
            time_to_live: 64,
            identification: 1,
            is_answer: false,
            flags: SYN,
            tcp_options: Vec::new(),
            payload: Vec::new(),
        }
    }

    /// Sets the TCP flags.
    #[must_use]
    pub fn flags(mut self, flags: u8) -> Self {
        self.flags = flags;
        self
    }

    /// Builds the frame with correct lengths and checksums.
    pub fn build(&self) -> Built {
        self.around(&self.segment())
    }

    /// Builds the frame as two fragments, the first of which has `first` bytes of the TCP segment, a multiple of eight.
    pub fn fragments(&self, first: usize) -> [Vec<u8>; 2] {
        let segment = self.segment();
        let (head, rest) = segment.split_at(first);
        let fragment = |offset: usize, has_more: bool| {
            let units = (offset / 8) as u16;
            if self.source.is_ipv4() {
                return Self { fragment: units | u16::from(has_more) << 13, ..self.clone() };
            }
            let [high, low] = (units << 3 | u16::from(has_more)).to_be_bytes();
            let header = (44, vec![0, 0, high, low, 0, 0, 0, 1]);
            Self { extensions: [self.extensions.clone(), vec![header]].concat(), ..self.clone() }
        };
        [fragment(0, true).around(head).bytes, fragment(first, false).around(rest).bytes]
    }

    /// Builds the headers around a TCP segment, or a part of it.
    fn around(&self, segment: &[u8]) -> Built {
        let mut bytes = Vec::new();
        let (to, from) = if self.is_answer { (CLIENT_MAC, SERVER_MAC) } else { (SERVER_MAC, CLIENT_MAC) };
        bytes.extend(to);
        bytes.extend(from);
        for tag in &self.tags {
            bytes.extend(tag.to_be_bytes());
            bytes.extend([0, 7]);
        }
        let ip = bytes.len() + 2;
        let header = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                bytes.extend([0x08, 0x00]);
                self.ipv4_header(source.octets(), destination.octets(), segment.len())
            }
            _ => {
                bytes.extend([0x86, 0xdd]);
                self.ipv6_header(segment.len())
            }
        };
        bytes.extend(header);
        let tcp = bytes.len();
        bytes.extend(segment);
        Built { bytes, ip, tcp }
    }

    fn ipv4_header(&self, source: [u8; 4], destination: [u8; 4], payload: usize) -> Vec<u8> {
        let length = 20 + self.ip_options.len();
        let mut header = vec![0x40 | (length / 4) as u8, 0];
        header.extend(((length + payload) as u16).to_be_bytes());
        header.extend(self.identification.to_be_bytes());
        header.extend(self.fragment.to_be_bytes());
        header.extend([self.time_to_live, self.protocol, 0, 0]);
        header.extend(source);
        header.extend(destination);
        header.extend(&self.ip_options);
        let checksum = !fold(sum(&header));
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header
    }

    fn ipv6_header(&self, payload: usize) -> Vec<u8> {
        let extensions: usize = self.extensions.iter().map(|(_, body)| body.len()).sum();
        let mut kinds: Vec<u8> = self.extensions.iter().map(|(kind, _)| *kind).collect();
        kinds.push(self.protocol);
        let mut header = vec![0x60, 0, 0, 0];
        header.extend(((extensions + payload) as u16).to_be_bytes());
        header.extend([kinds[0], self.time_to_live]);
        header.extend(octets(self.source));
        header.extend(octets(self.destination));
        for ((_, body), next) in self.extensions.iter().zip(&kinds[1..]) {
            header.push(*next);
            header.extend(&body[1..]);
        }
        header
    }

    fn segment(&self) -> Vec<u8> {
        let header = 20 + self.tcp_options.len();
        let mut segment = Vec::new();
        segment.extend(self.source_port.to_be_bytes());
        segment.extend(self.destination_port.to_be_bytes());
        segment.extend(self.sequence.to_be_bytes());
        segment.extend(self.acknowledgement.to_be_bytes());
        segment.extend([((header / 4) << 4) as u8, self.flags]);
        segment.extend(self.window.to_be_bytes());
        segment.extend([0; 4]);
        segment.extend(&self.tcp_options);
        segment.extend(&self.payload);
        let checksum = !fold(self.pseudo_header_sum(segment.len()) + sum(&segment));
        segment[16..18].copy_from_slice(&checksum.to_be_bytes());
        segment
    }

    /// Returns the sum of the pseudo-header, which TCP's checksum includes (RFC 9293 3.1, RFC 8200 8.1).
    fn pseudo_header_sum(&self, length: usize) -> u32 {
        sum(&octets(self.source)) + sum(&octets(self.destination)) + u32::from(self.protocol) + length as u32
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Returns the sum of the big-endian 16-bit words; an odd last byte is padded with zero.
pub fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0))).sum()
}

/// Folds a sum into 16 bits in ones' complement arithmetic (RFC 1071).
pub fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

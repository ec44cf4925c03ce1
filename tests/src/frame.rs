//! Putting frames together, header by header, right or deliberately wrong.

use std::net::IpAddr;

use crate::network::{CLIENT_MAC, SERVER_MAC};

/// FIN.
pub const FIN: u8 = 0x01;
/// SYN.
pub const SYN: u8 = 0x02;
/// RST.
pub const RST: u8 = 0x04;
/// PSH.
pub const PSH: u8 = 0x08;
/// ACK.
pub const ACK: u8 = 0x10;
/// URG.
pub const URG: u8 = 0x20;

/// The options that Linux sends in a SYN: MSS 1460, SACK, timestamps, window scale 7; 20 bytes.
pub const LINUX_SYN_OPTIONS: [u8; 20] = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];

/// A TCP segment in its frame, from the lab's client to its server.
#[derive(Clone, Debug)]
pub struct Frame {
    /// VLAN tags by their Ethernet types, outermost first.
    pub tags: Vec<u16>,
    /// Source address.
    pub source: IpAddr,
    /// Destination address, of the same family.
    pub destination: IpAddr,
    /// IPv4 options; a multiple of four bytes.
    pub ip_options: Vec<u8>,
    /// IPv6 extension headers: type and body, the first two bytes of which are filled in.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// The fragment field of an IPv4 header.
    pub fragment: u16,
    /// Protocol or next header.
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
    /// Identification of an IPv4 packet.
    pub identification: u16,
    /// From the server to the client: hardware addresses the other way round.
    pub is_answer: bool,
    /// TCP options; a multiple of four bytes.
    pub tcp_options: Vec<u8>,
    /// Data.
    pub payload: Vec<u8>,
}

/// A frame's bytes, and where its headers start.
#[derive(Clone, Debug)]
pub struct Built {
    /// The frame.
    pub bytes: Vec<u8>,
    /// Offset of the IP header.
    pub ip: usize,
    /// Offset of the TCP header.
    pub tcp: usize,
}

impl Frame {
    /// A plain SYN.
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
            identification: 1,
            is_answer: false,
            flags: SYN,
            tcp_options: Vec::new(),
            payload: Vec::new(),
        }
    }

    /// With other flags.
    #[must_use]
    pub fn flags(mut self, flags: u8) -> Self {
        self.flags = flags;
        self
    }

    /// The frame, with right lengths and checksums.
    pub fn build(&self) -> Built {
        let mut bytes = Vec::new();
        let (to, from) = if self.is_answer { (CLIENT_MAC, SERVER_MAC) } else { (SERVER_MAC, CLIENT_MAC) };
        bytes.extend(to);
        bytes.extend(from);
        for tag in &self.tags {
            bytes.extend(tag.to_be_bytes());
            bytes.extend([0, 7]);
        }
        let segment = self.segment();
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
        header.extend([64, self.protocol, 0, 0]);
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
        header.extend([kinds[0], 64]);
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

    /// The sum over addresses, protocol and length that TCP's checksum includes (RFC 9293 3.1, RFC 8200 8.1).
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

/// The sum of the 16-bit big-endian words; an odd last byte counts as if a zero followed.
pub fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0))).sum()
}

/// The ones' complement sum of a sum's halves (RFC 1071).
pub fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

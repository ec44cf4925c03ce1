//! The fixed TCP header (RFC 9293).

use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::{Segment, Unread, ip::Datagram};
use crate::wire::{Be16, Be32, PacketBytes};

const MINIMUM_DATA_OFFSET: u16 = 5;
/// The length of a TCP header without options, in bytes.
pub const HEADER_LENGTH: usize = 20;

/// The first word of a TCP header's options, in two halves.
pub type FirstOption = [Be16; 2];

const NO_OPTION: FirstOption = [Be16::new(0); 2];

#[repr(C)]
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
struct TcpHeader {
    source_port: Be16,
    destination_port: Be16,
    sequence: Be32,
    acknowledgement: Be32,
    data_offset: u8,
    flags: u8,
    window: Be16,
    checksum: Be16,
    urgent: Be16,
}

/// The flag byte of a TCP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// The sender has no more data.
    pub const FIN: u8 = 0x01;
    /// Synchronises sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Resets the connection.
    pub const RST: u8 = 0x04;
    /// The data is to be passed to the application without delay.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer is valid.
    pub const URG: u8 = 0x20;
    /// The receiver echoes experienced congestion (RFC 3168).
    pub const ECE: u8 = 0x40;
    /// The sender has reduced its congestion window (RFC 3168).
    pub const CWR: u8 = 0x80;
}

/// The role of a segment in a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentKind {
    /// Requests a connection.
    Syn,
    /// Answers a SYN.
    SynAck,
    /// Aborts a connection or a handshake.
    Rst,
    /// Acknowledges data, the end of a connection, or the last step of a handshake.
    Ack,
    /// An invalid combination: SYN with FIN or RST, RST with FIN, or neither SYN, RST nor ACK.
    BadFlags,
}

impl Flags {
    /// Classifies the combinations of flags into the kinds that are counted.
    #[inline(always)]
    pub const fn kind(self) -> SegmentKind {
        match self.0 & (Self::FIN | Self::SYN | Self::RST | Self::ACK) {
            Self::SYN => SegmentKind::Syn,
            bits if bits & !Self::FIN == Self::ACK => SegmentKind::Ack,
            bits if bits == Self::SYN | Self::ACK => SegmentKind::SynAck,
            bits if bits & !Self::ACK == Self::RST => SegmentKind::Rst,
            _ => SegmentKind::BadFlags,
        }
    }
}

/// Reads the segment at `tcp_offset`, whose header has been parsed before, without its lengths.
#[inline(always)]
pub(super) fn read(bytes: &(impl PacketBytes + ?Sized), tcp_offset: usize, datagram: &Datagram) -> Option<Segment> {
    let header: TcpHeader = bytes.read(tcp_offset)?;
    Some(Segment { tcp_offset, ..segment(&header, datagram, 0, 0, NO_OPTION) })
}

#[inline(always)]
const fn segment(
    header: &TcpHeader,
    datagram: &Datagram,
    payload_length: u16,
    header_length: usize,
    first_option: FirstOption,
) -> Segment {
    Segment {
        source: datagram.source,
        destination: datagram.destination,
        source_port: header.source_port.get(),
        destination_port: header.destination_port.get(),
        sequence: header.sequence.get(),
        acknowledgement: header.acknowledgement.get(),
        flags: Flags(header.flags),
        reserved: header.data_offset & 0x0f,
        service: datagram.service,
        time_to_live: datagram.time_to_live,
        window: header.window,
        first_option,
        payload_length,
        ip_offset: datagram.ip_offset,
        tcp_offset: datagram.tcp_offset,
        header_length,
    }
}

#[inline(always)]
pub(super) fn parse(bytes: &(impl PacketBytes + ?Sized), datagram: &Datagram) -> Result<Segment, Unread> {
    // The kernel discards a packet that ends within its TCP header, unless further fragments complete it.
    let incomplete = if datagram.is_fragment { Unread::TinyFragment } else { Unread::Truncated };
    let header: TcpHeader = bytes.read(datagram.tcp_offset).ok_or(incomplete)?;
    let data_offset = header.data_offset as u16 >> 4;
    if data_offset < MINIMUM_DATA_OFFSET {
        return Err(Unread::BadDataOffset);
    }
    let mut first_option = NO_OPTION;
    if data_offset > MINIMUM_DATA_OFFSET {
        first_option = bytes.read(datagram.tcp_offset + HEADER_LENGTH).ok_or(incomplete)?;
        // If the last word of the options can be read, the whole header is present.
        let last_word = datagram.tcp_offset + data_offset as usize * 4 - size_of::<Be32>();
        bytes.read::<Be32>(last_word).ok_or(incomplete)?;
    }
    let payload_length = datagram.tcp_length.checked_sub(data_offset * 4).ok_or(incomplete)?;
    if datagram.is_fragment && matches!(Flags(header.flags).kind(), SegmentKind::Syn) {
        return Err(Unread::FragmentedSyn);
    }
    Ok(segment(&header, datagram, payload_length, data_offset as usize * 4, first_option))
}

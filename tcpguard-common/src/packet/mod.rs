//! Frame parsing: Ethernet, up to two VLAN tags, IPv4 or IPv6, TCP.
//!
//! There is a single parser. It reads through [`PacketBytes`], which is implemented by byte slices on the host
//! and by frames in the datapath, so that the code tested here is the code that runs in the kernel.

mod ethernet;
pub mod integrity;
mod ip;
mod shape;
mod tcp;

pub use ethernet::MAX_VLAN_TAGS;
pub use ip::{MAX_EXTENSION_HEADERS, MAX_EXTENSIONS_LENGTH, TCP as TCP_PROTOCOL};
pub use shape::{SEGMENT_SIZE, Shape, TIME_TO_LIVE, UNKNOWN_CLASS, WINDOW};
pub use tcp::{FirstOption, Flags, HEADER_LENGTH as TCP_HEADER_LENGTH, SegmentKind};

use crate::{
    address::Address,
    wire::{Be16, PacketBytes},
};

/// The header fields of a TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Source address; it may be forged.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Source port, host byte order.
    pub source_port: u16,
    /// Destination port, host byte order.
    pub destination_port: u16,
    /// Sequence number, host byte order.
    pub sequence: u32,
    /// Acknowledgement number, host byte order.
    pub acknowledgement: u32,
    /// TCP flags.
    pub flags: Flags,
    /// The four bits between data offset and flags, one of which belongs to accurate ECN.
    pub reserved: u8,
    /// Type of service (IPv4) or traffic class (IPv6).
    pub service: u8,
    /// TTL (IPv4) or hop limit (IPv6); 0 in a segment read by [`Segment::at`].
    pub time_to_live: u8,
    /// The receive window, as it is in the header.
    pub window: Be16,
    /// The first word of the options, zero without any; zero in a segment read by [`Segment::at`].
    pub first_option: FirstOption,
    /// Bytes after the TCP header, according to the IP header.
    pub payload_length: u16,
    /// Offset of the IP header from the start of the frame, in bytes.
    pub ip_offset: usize,
    /// Offset of the TCP header from the start of the frame, in bytes.
    pub tcp_offset: usize,
    /// Length of the TCP header in bytes, including options.
    pub header_length: usize,
}

impl Segment {
    /// Packs the offsets of both headers and the length of the TCP header into one number.
    #[inline(always)]
    pub const fn place(&self) -> u64 {
        self.ip_offset as u64 | (self.header_length as u64) << 8 | (self.tcp_offset as u64) << 16
    }

    /// Reads the segment again at a place returned by [`Segment::place`], without its lengths.
    #[inline(always)]
    pub fn at(bytes: &(impl PacketBytes + ?Sized), place: u64) -> Option<Self> {
        let ip_offset = (place & 0xfe) as usize;
        let (tcp_offset, _) = tcp_at(place);
        tcp::read(bytes, tcp_offset, &ip::at(bytes, ip_offset)?)
    }
}

/// Returns offset and length of the TCP header from [`Segment::place`]. The masks give the verifier upper
/// bounds of both.
#[inline(always)]
pub const fn tcp_at(place: u64) -> (usize, usize) {
    ((place >> 16 & 0x7ffe) as usize, (place >> 8 & 0x3c) as usize)
}

/// The reason why a frame holds no readable TCP segment. The kernel discards some of these packets, and others are no TCP;
/// those that could get a SYN past the pipeline may be dropped (`tcpguard-ebpf/src/stages/header.rs`).
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// Neither IPv4 nor IPv6: ARP, more than two VLAN tags, or anything else.
    NotIp,
    /// IP, but with another protocol than TCP.
    NotTcp,
    /// A fragment other than the first, which alone holds the ports.
    LaterFragment,
    /// The frame ends within its headers, or its length fields imply that it does.
    Truncated,
    /// An invalid IP header: wrong version, a header length under 20 bytes, or an IPv4-mapped address in an
    /// IPv6 header.
    BadIpHeader,
    /// A TCP data offset of less than five words.
    BadDataOffset,
    /// More VLAN tags than are parsed (see [`MAX_VLAN_TAGS`]).
    TooManyTags,
    /// More or longer IPv6 extension headers than are parsed (see [`MAX_EXTENSION_HEADERS`], [`MAX_EXTENSIONS_LENGTH`]).
    TooManyExtensions,
    /// A first fragment that ends within its headers (RFC 1858, RFC 7112), or another one that begins within the TCP header.
    TinyFragment,
    /// A SYN whose rest is in further fragments.
    FragmentedSyn,
}

impl Unread {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::NotIp,
        Self::NotTcp,
        Self::LaterFragment,
        Self::Truncated,
        Self::BadIpHeader,
        Self::BadDataOffset,
        Self::TooManyTags,
        Self::TooManyExtensions,
        Self::TinyFragment,
        Self::FragmentedSyn,
    ];
}

const _: () = {
    let mut index = 0;
    while index < Unread::ALL.len() {
        assert!(Unread::ALL[index] as usize == index, "in the order of their numbers");
        index += 1;
    }
    assert!(index == Unread::FragmentedSyn as usize + 1, "all of them");
};

/// Returns the source address of a frame of which [`parse`] has found the IP header.
#[inline(always)]
pub fn source(bytes: &(impl PacketBytes + ?Sized)) -> Option<Address> {
    let (ethernet::Payload::Ipv4(offset) | ethernet::Payload::Ipv6(offset)) = ethernet::payload(bytes).ok()?;
    ip::at(bytes, offset).map(|datagram| datagram.source)
}

/// Parses the frame in `bytes` up to its TCP header.
///
/// # Errors
/// Returns an error if the frame holds no readable TCP segment; see [`Unread`].
#[inline(always)]
pub fn parse(bytes: &(impl PacketBytes + ?Sized)) -> Result<Segment, Unread> {
    let payload = ethernet::payload(bytes)?;
    let datagram = ip::parse(bytes, payload)?;
    tcp::parse(bytes, &datagram)
}

#[cfg(test)]
mod tests;

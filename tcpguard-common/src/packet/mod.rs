//! Reading a frame: Ethernet, up to two VLAN tags, IPv4 or IPv6, TCP.
//!
//! There is one parser. It reads through [`PacketBytes`], which a byte slice implements on the host
//! and the XDP context in the kernel, so what is tested here is what runs there.

mod ethernet;
mod ip;
mod tcp;
mod wire;

pub use ethernet::MAX_VLAN_TAGS;
pub use ip::{MAX_EXTENSION_HEADERS, TCP as TCP_PROTOCOL};
pub use tcp::{Flags, HEADER_LENGTH as TCP_HEADER_LENGTH, SegmentKind};
pub use wire::{Be16, Be32, PacketBytes};

use crate::address::Address;

/// A TCP segment as far as its headers tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Who claims to have sent it.
    pub source: Address,
    /// Whom it is for.
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
    /// The bits between data offset and flags, of which one belongs to accurate congestion notification.
    pub reserved: u8,
    /// Type of service, or traffic class.
    pub service: u8,
    /// Bytes behind the TCP header by the IP header's account.
    pub payload_length: u16,
    /// Where the IP header starts, in bytes from the start of the frame.
    pub ip_offset: usize,
    /// Where the TCP header starts.
    pub tcp_offset: usize,
    /// Bytes of the TCP header, options among them.
    pub header_length: usize,
}

impl Segment {
    /// Where it was found, as one number.
    #[inline(always)]
    pub const fn place(&self) -> u64 {
        self.ip_offset as u64 | (self.header_length as u64) << 8 | (self.tcp_offset as u64) << 16
    }

    /// Reads it again, from where it was found ([`Segment::place`]), without its lengths.
    #[inline(always)]
    pub fn at(bytes: &(impl PacketBytes + ?Sized), place: u64) -> Option<Self> {
        let ip_offset = (place & 0xfe) as usize;
        let (tcp_offset, _) = tcp_at(place);
        tcp::read(bytes, tcp_offset, &ip::at(bytes, ip_offset)?)
    }
}

/// Where the TCP header starts, and how long it is, by [`Segment::place`]. The masks tell the verifier how
/// large these can be at most.
#[inline(always)]
pub const fn tcp_at(place: u64) -> (usize, usize) {
    ((place >> 16 & 0x7ffe) as usize, (place >> 8 & 0x3c) as usize)
}

/// Why a frame holds no TCP segment that could be read. All of these pass to the kernel untouched.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// Neither IPv4 nor IPv6: ARP, more than two VLAN tags, anything else.
    NotIp,
    /// IP, but another protocol than TCP.
    NotTcp,
    /// A fragment other than the first: its ports are in the first.
    LaterFragment,
    /// It ends within its headers, or its length fields say so.
    Truncated,
    /// An IP header that contradicts itself: wrong version, or a header length under 20 bytes.
    BadIpHeader,
    /// A TCP data offset of less than five words.
    BadDataOffset,
    /// More IPv6 extension headers than are followed (see [`MAX_EXTENSION_HEADERS`]).
    TooManyExtensions,
}

impl Unread {
    /// Every reason, in the order of its number.
    pub const ALL: [Self; 7] = [
        Self::NotIp,
        Self::NotTcp,
        Self::LaterFragment,
        Self::Truncated,
        Self::BadIpHeader,
        Self::BadDataOffset,
        Self::TooManyExtensions,
    ];
}

/// Reads the frame in `bytes` down to its TCP header.
///
/// # Errors
/// Says why there is none to read; see [`Unread`].
#[inline(always)]
pub fn parse(bytes: &(impl PacketBytes + ?Sized)) -> Result<Segment, Unread> {
    let payload = ethernet::payload(bytes)?;
    let datagram = ip::parse(bytes, payload)?;
    tcp::parse(bytes, &datagram)
}

#[cfg(test)]
mod tests;

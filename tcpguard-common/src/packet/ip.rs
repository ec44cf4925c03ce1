//! IPv4 (RFC 791) and IPv6 (RFC 8200) headers, as far as needed to find the TCP header.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::{Unread, ethernet::Payload};
use crate::{
    address::Address,
    wire::{Be16, PacketBytes},
};

/// The maximum number of IPv6 extension headers that are parsed. Real traffic has none or one.
pub const MAX_EXTENSION_HEADERS: usize = 6;
/// Their maximum length together, in bytes. At traffic control, the TCP header behind them is still within the part of a
/// frame that is made accessible.
pub const MAX_EXTENSIONS_LENGTH: usize = 384;

/// The IP protocol number of TCP.
pub const TCP: u8 = 6;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

const IPV4_MORE_FRAGMENTS: u16 = 0x2000;
const IPV4_FRAGMENT_OFFSET_MASK: u16 = 0x1fff;
const IPV6_MORE_FRAGMENTS: u16 = 1;
const IPV6_FRAGMENT_OFFSET_MASK: u16 = 0xfff8;

/// An IP packet whose payload is a TCP segment or the first fragment of one.
pub(super) struct Datagram {
    pub source: Address,
    pub destination: Address,
    /// Type of service (IPv4) or traffic class (IPv6).
    pub service: u8,
    /// TTL (IPv4) or hop limit (IPv6).
    pub time_to_live: u8,
    /// Offset of the IP header from the start of the frame, in bytes.
    pub ip_offset: usize,
    /// Offset of the TCP header from the start of the frame, in bytes.
    pub tcp_offset: usize,
    /// Bytes of TCP header and payload, according to the IP header.
    pub tcp_length: u16,
    /// It is the first of several fragments, or without a length (a jumbogram, RFC 2675): no SYN is sent like that.
    pub is_fragment: bool,
}

/// Returns why a fragment that is not the first is not read. `offset` is where it continues the packet, in units of eight
/// bytes: one that begins within the TCP header could overwrite the flags of the first (RFC 1858, RFC 3128).
#[inline(always)]
const fn later_fragment(offset: u16, is_tcp: bool) -> Unread {
    if offset == 1 && is_tcp { Unread::TinyFragment } else { Unread::LaterFragment }
}

#[repr(C)]
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
struct Ipv4Header {
    version_length: u8,
    service: u8,
    total_length: Be16,
    identification: Be16,
    fragment: Be16,
    time_to_live: u8,
    protocol: u8,
    checksum: Be16,
    source: [Be16; 2],
    destination: [Be16; 2],
}

#[repr(C)]
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
struct Ipv6Header {
    version: u8,
    class_and_label: [u8; 3],
    payload_length: Be16,
    next_header: u8,
    hop_limit: u8,
    source: [Be16; 8],
    destination: [Be16; 8],
}

/// The first eight bytes of an extension header of any type that is parsed.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
struct ExtensionHeader {
    next_header: u8,
    length: u8,
    fragment: Be16,
    rest: [Be16; 2],
}

#[inline(always)]
pub(super) fn parse(bytes: &(impl PacketBytes + ?Sized), payload: Payload) -> Result<Datagram, Unread> {
    match payload {
        Payload::Ipv4(offset) => parse_ipv4(bytes, offset),
        Payload::Ipv6(offset) => parse_ipv6(bytes, offset),
    }
}

/// Reads the addresses from the IP header at `offset`, which has been parsed before.
#[inline(always)]
pub(super) fn at(bytes: &(impl PacketBytes + ?Sized), offset: usize) -> Option<Datagram> {
    let version: Be16 = bytes.read(offset)?;
    let (source, destination) = if version.get() >> 12 == 4 {
        let [source, destination]: [[Be16; 2]; 2] = bytes.read(offset + offset_of!(Ipv4Header, source))?;
        (Address::from_ipv4_fields(source), Address::from_ipv4_fields(destination))
    } else {
        let [source, destination]: [[Be16; 8]; 2] = bytes.read(offset + offset_of!(Ipv6Header, source))?;
        (Address::from_ipv6_fields(source), Address::from_ipv6_fields(destination))
    };
    let (service, time_to_live, tcp_offset, tcp_length) = (0, 0, 0, 0);
    Some(Datagram {
        source,
        destination,
        service,
        time_to_live,
        ip_offset: offset,
        tcp_offset,
        tcp_length,
        is_fragment: false,
    })
}

/// Returns the number of bytes from `tcp_offset` to the end of the packet whose IP header, at `offset`, has been parsed
/// before.
#[inline(always)]
pub(super) fn payload_length(bytes: &(impl PacketBytes + ?Sized), offset: usize, tcp_offset: usize) -> Option<u16> {
    let version: Be16 = bytes.read(offset)?;
    let headers = tcp_offset.checked_sub(offset)? as u16;
    if version.get() >> 12 == 4 {
        let length: Be16 = bytes.read(offset + offset_of!(Ipv4Header, total_length))?;
        length.get().checked_sub(headers)
    } else {
        let length: Be16 = bytes.read(offset + offset_of!(Ipv6Header, payload_length))?;
        length.get().checked_sub(headers.checked_sub(size_of::<Ipv6Header>() as u16)?)
    }
}

#[inline(always)]
fn parse_ipv4(bytes: &(impl PacketBytes + ?Sized), offset: usize) -> Result<Datagram, Unread> {
    let header: Ipv4Header = bytes.read(offset).ok_or(Unread::Truncated)?;
    let header_length = (header.version_length & 0x0f) as u16 * 4;
    if header.version_length >> 4 != 4 || (header_length as usize) < size_of::<Ipv4Header>() {
        return Err(Unread::BadIpHeader);
    }
    if header.protocol != TCP {
        return Err(Unread::NotTcp);
    }
    let fragment = header.fragment.get();
    let fragment_offset = fragment & IPV4_FRAGMENT_OFFSET_MASK;
    if fragment_offset != 0 {
        return Err(later_fragment(fragment_offset, true));
    }
    let tcp_length = header.total_length.get().checked_sub(header_length).ok_or(Unread::Truncated)?;
    Ok(Datagram {
        source: Address::from_ipv4_fields(header.source),
        destination: Address::from_ipv4_fields(header.destination),
        service: header.service,
        time_to_live: header.time_to_live,
        ip_offset: offset,
        tcp_offset: offset + header_length as usize,
        tcp_length,
        is_fragment: fragment & IPV4_MORE_FRAGMENTS != 0,
    })
}

#[inline(always)]
fn parse_ipv6(bytes: &(impl PacketBytes + ?Sized), offset: usize) -> Result<Datagram, Unread> {
    let header: Ipv6Header = bytes.read(offset).ok_or(Unread::Truncated)?;
    if header.version >> 4 != 6 {
        return Err(Unread::BadIpHeader);
    }
    let mut next_header = header.next_header;
    let mut extensions = Extensions(0);
    for _ in 0..MAX_EXTENSION_HEADERS {
        if next_header == TCP {
            break;
        }
        let position = offset + size_of::<Ipv6Header>() + extensions.length();
        let (following, extension) = match parse_extension(bytes, position, next_header) {
            // A first fragment has to contain all headers (RFC 7112).
            Err(Unread::Truncated) if extensions.have_more_fragments() => return Err(Unread::TinyFragment),
            extension => extension?,
        };
        next_header = following;
        extensions.0 += extension.0;
        if extensions.length() > MAX_EXTENSIONS_LENGTH {
            return Err(Unread::TooManyExtensions);
        }
    }
    if next_header != TCP {
        return Err(Unread::TooManyExtensions);
    }
    // A length of 0 is that of a jumbogram: the kernel accepts it in front of hop-by-hop options, whatever these are
    // (ip6_rcv_core).
    let (payload_length, extensions_length) = (header.payload_length.get(), extensions.length());
    if payload_length != 0 && (payload_length as usize) < extensions_length {
        return Err(Unread::Truncated);
    }
    let tcp_length = payload_length.wrapping_sub(extensions_length as u16);
    let (source, destination) =
        (Address::from_ipv6_fields(header.source), Address::from_ipv6_fields(header.destination));
    // An IPv4-mapped address is invalid in an IPv6 header (RFC 4291 2.5.5.2 is about sockets) and would be
    // mistaken for the IPv4 address of another host. The kernel drops these packets.
    if source.is_ipv4() || destination.is_ipv4() {
        return Err(Unread::BadIpHeader);
    }
    Ok(Datagram {
        source,
        destination,
        service: header.version << 4 | header.class_and_label[0] >> 4,
        time_to_live: header.hop_limit,
        ip_offset: offset,
        tcp_offset: offset + size_of::<Ipv6Header>() + extensions_length,
        tcp_length,
        is_fragment: payload_length == 0 || extensions.have_more_fragments(),
    })
}

/// The length of extension headers in bytes (lower 12 bits), and whether they make the packet the first of several fragments
/// (upper bits). It is one number, which the verifier knows nothing about, so that it does not follow both cases.
#[derive(Clone, Copy)]
struct Extensions(usize);

impl Extensions {
    const LENGTH_BITS: u32 = 12;

    #[inline(always)]
    const fn length(self) -> usize {
        self.0 & ((1 << Self::LENGTH_BITS) - 1)
    }

    #[inline(always)]
    const fn have_more_fragments(self) -> bool {
        self.0 >> Self::LENGTH_BITS != 0
    }
}

/// Reads the extension header of type `kind` at `offset`. Returns the type of the header that follows, or the reason why
/// nothing after it can be read.
#[inline(always)]
fn parse_extension(bytes: &(impl PacketBytes + ?Sized), offset: usize, kind: u8) -> Result<(u8, Extensions), Unread> {
    if !matches!(kind, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS) {
        return Err(Unread::NotTcp);
    }
    let extension: ExtensionHeader = bytes.read(offset).ok_or(Unread::Truncated)?;
    let (next_header, fragment) = (extension.next_header, extension.fragment.get());
    let length = match kind {
        FRAGMENT if fragment & IPV6_FRAGMENT_OFFSET_MASK != 0 => {
            // Of a TCP segment, or of a packet whose fragments begin with further extension headers.
            let may_be_tcp = matches!(next_header, TCP | HOP_BY_HOP | ROUTING | AUTHENTICATION | DESTINATION_OPTIONS);
            let later = later_fragment(fragment >> 3, next_header == TCP);
            return Err(if may_be_tcp { later } else { Unread::NotTcp });
        }
        FRAGMENT => {
            size_of::<ExtensionHeader>() | ((fragment & IPV6_MORE_FRAGMENTS) as usize) << Extensions::LENGTH_BITS
        }
        // RFC 4302: the length is given in 4-byte words, minus two.
        AUTHENTICATION => (extension.length as usize + 2) * 4,
        _ => (extension.length as usize + 1) * 8,
    };
    Ok((next_header, Extensions(length)))
}

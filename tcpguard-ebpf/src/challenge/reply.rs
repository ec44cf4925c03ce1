//! What answers to SYNs have in common. They are made in the SYN's frame: hardware addresses are swapped, VLAN tags stay, and an
//! IP header without options or extensions and the TCP header replace the rest.

use tcpguard_common::{
    abi::port::PortChallenge,
    challenge::syn_ack::{self, IPV4_HEADER_LENGTH, IPV6_HEADER_LENGTH, MIN_FRAME},
    packet::Segment,
    wire::{Be16, PacketBytes},
};

use crate::{frame::Frame, hook::Context};

/// 16-bit words in one of an Ethernet header's addresses.
const ADDRESS_WORDS: usize = 3;

/// How far an answer may travel.
#[derive(Clone, Copy)]
pub struct Hops {
    /// The TTL over IPv4.
    time_to_live: u8,
    /// The hop limit over IPv6.
    hop_limit: u8,
}

impl Hops {
    /// The kernel's default.
    pub const USUAL: Self = Self { time_to_live: 64, hop_limit: 64 };

    #[inline(always)]
    pub const fn of(terms: &PortChallenge) -> Self {
        Self { time_to_live: terms.time_to_live, hop_limit: terms.hop_limit }
    }
}

/// Turns the frame of a SYN into that of its answer, up to the TCP header; that has this length, in bytes. Returns the frame
/// and the offset of the TCP header, or `None`, with an unchanged frame, if the driver has no room.
#[inline(always)]
pub fn begin(context: &Context, frame: Frame, syn: &Segment, hops: Hops, tcp_length: usize) -> Option<(Frame, usize)> {
    let is_ipv4 = syn.source.is_ipv4();
    let tcp_offset = syn.ip_offset + if is_ipv4 { IPV4_HEADER_LENGTH } else { IPV6_HEADER_LENGTH };
    let end = tcp_offset + tcp_length;
    let frame = frame.resized(context, if end > MIN_FRAME { end } else { MIN_FRAME })?;
    swap_hardware_addresses(&frame)?;
    if is_ipv4 {
        frame.write(syn.ip_offset, syn_ack::ipv4_header(syn.destination, syn.source, tcp_length, hops.time_to_live))?;
    } else {
        write_ipv6_header(&frame, syn, syn_ack::ipv6_head(tcp_length, hops.hop_limit))?;
    }
    Some((frame, tcp_offset))
}

/// Clears what is left of the SYN behind an answer that is shorter than the minimum: over IPv4, without options and with at
/// most one tag, or with the MSS alone and without tags.
#[inline(always)]
pub fn fill(frame: &Frame, end: usize) -> Option<()> {
    const NOTHING: Be16 = Be16::new(0);
    if end + 2 == MIN_FRAME {
        frame.write(end, [NOTHING])
    } else if end + 6 == MIN_FRAME {
        frame.write(end, [NOTHING; 3])
    } else {
        Some(())
    }
}

#[inline(always)]
fn write_ipv6_header(frame: &Frame, segment: &Segment, head: [Be16; 4]) -> Option<()> {
    const SOURCE: usize = 8;
    const DESTINATION: usize = 24;
    frame.write(segment.ip_offset, head)?;
    frame.write(segment.ip_offset + SOURCE, segment.destination.fields())?;
    frame.write(segment.ip_offset + DESTINATION, segment.source.fields())
}

#[inline(always)]
fn swap_hardware_addresses(frame: &Frame) -> Option<()> {
    let [to, from]: [[Be16; ADDRESS_WORDS]; 2] = frame.read(0)?;
    frame.write(0, from)?;
    frame.write(2 * ADDRESS_WORDS, to)
}

//! Turning a SYN into its answer, in the same frame: hardware addresses change places, VLAN tags stay, and
//! behind them an IP header without options or extensions and the SYN-ACK take the place of what was there.

use aya_ebpf::EbpfContext as _;
use tcpguard_common::{
    challenge::{
        syn_ack::{
            self, FULL_LENGTH, IPV4_HEADER_LENGTH, IPV6_HEADER_LENGTH, PLAIN_LENGTH, SHORTEST_FRAME, SynAck,
            UNSCALED_LENGTH,
        },
        syn_options::SynOptions,
    },
    packet::{self, Be16, PacketBytes, Segment},
};

use super::{cookie, terms_of};
use crate::{
    frame::Frame,
    hook::{Context, RawContext},
    time::Now,
};

/// Words of an Ethernet header's two addresses.
const ADDRESS_WORDS: usize = 3;

/// Turns the frame into the answer to the SYN that it holds. False where that cannot be; the frame is as it
/// was then.
#[inline(always)]
pub fn send(context: &Context) -> bool {
    make(context).is_some()
}

#[inline(always)]
fn make(context: &Context) -> Option<()> {
    let frame = Frame::of(context);
    let segment = &packet::parse(&frame).ok()?;
    let terms = terms_of(segment.destination_port)?;
    let options = SynOptions::read_usual(&frame, segment.tcp_offset, segment.header_length)
        .unwrap_or_else(|| SynOptions::from_packed(read_options(context.as_ptr().cast(), segment.place())));
    let is_ipv4 = segment.source.is_ipv4();
    if options.is_signed() {
        return None;
    }
    let cookie = cookie::make(segment, options.mss())?;
    let answer = SynAck::new(segment, options, cookie, terms, Now::read().milliseconds());

    let ip_length = if is_ipv4 { IPV4_HEADER_LENGTH } else { IPV6_HEADER_LENGTH };
    let tcp_offset = segment.ip_offset + ip_length;
    let end = tcp_offset + answer.length;
    let frame = frame.resized(context, if end > SHORTEST_FRAME { end } else { SHORTEST_FRAME })?;
    swap_hardware_addresses(&frame)?;
    if is_ipv4 {
        frame.write(
            segment.ip_offset,
            syn_ack::ipv4_header(segment.destination, segment.source, answer.length, terms.time_to_live),
        )?;
    } else {
        write_ipv6_header(&frame, segment, syn_ack::ipv6_head(answer.length, terms.hop_limit))?;
    }
    frame.write(tcp_offset, answer.head)?;
    if answer.length >= UNSCALED_LENGTH {
        frame.write(tcp_offset + PLAIN_LENGTH, answer.stamps)?;
    }
    if answer.length == FULL_LENGTH {
        frame.write(tcp_offset + UNSCALED_LENGTH, answer.scale)?;
    }
    if end + 2 == SHORTEST_FRAME {
        // The one answer that is too short: IPv4 without tags and without timestamps.
        frame.write(end, [Be16::new(0)])?;
    }
    Some(())
}

/// The options as a number, however they are laid out. It is a global function, which the verifier looks at by
/// itself: the ways through the options end here.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn read_options(context: *mut RawContext, place: u64) -> u64 {
    let frame = Frame::of(&Context::new(context));
    let (tcp_offset, header_length) = packet::tcp_at(place);
    SynOptions::read(&frame, tcp_offset, header_length).packed()
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

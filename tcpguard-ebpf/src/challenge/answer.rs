//! Turning a SYN into its SYN-ACK, in the same frame: hardware addresses are swapped, VLAN tags stay, and an IP header
//! without options or extensions and the SYN-ACK replace the rest.

use aya_ebpf::{EbpfContext as _, btf_maps::ProgramArray, macros::btf_map};
use tcpguard_common::{
    abi::{
        counters::Counter,
        port::{PortChallenge, port_flag},
        rule::Standing,
    },
    challenge::{
        syn_ack::{
            self, FULL_LENGTH, IPV4_HEADER_LENGTH, IPV6_HEADER_LENGTH, MIN_FRAME, PLAIN_LENGTH, SynAck, UNSCALED_LENGTH,
        },
        syn_options::{self, Signature, SynOptions},
    },
    packet::{self, Segment},
    wire::{Be16, PacketBytes},
};

use super::{cookie, listeners};
use crate::{
    accounting::{counters, sources},
    frame::Frame,
    hook::{Context, RawContext},
    kernel::connections,
    lease::{self, Lease},
    rules, settings,
    source::Source,
    time::{self, Now},
};

/// 16-bit words in one of an Ethernet header's addresses.
const ADDRESS_WORDS: usize = 3;

/// The program that answers SYNs, installed by the daemon.
#[btf_map]
static ANSWER: ProgramArray<1> = ProgramArray::new();

/// Passes the frame on to the program that answers SYNs. It returns only if that fails.
#[inline(always)]
pub fn answer_next(context: &Context) {
    if settings::can_make_cookies() != 0 {
        // SAFETY: on success it does not return.
        unsafe { ANSWER.tail_call(context, 0) };
    }
    counters::add(Counter::ChallengeFailed);
}

/// Why a SYN is not answered.
pub enum Unanswered {
    /// It cannot be, and is left to the kernel.
    Passes,
    /// Only a listener with keys could answer it, and there is none.
    Signed,
}

/// Turns the frame into the answer to the SYN that it holds.
///
/// # Errors
/// Returns an error if that is impossible; the frame is then unchanged.
#[inline(always)]
pub fn answer(context: &Context) -> Result<(), Unanswered> {
    let frame = Frame::of(context);
    let segment = packet::parse(&frame).map_err(|_| Unanswered::Passes)?;
    let challenge = listeners::challenge_of(segment.destination_port).ok_or(Unanswered::Passes)?;
    let options = SynOptions::read_usual(&frame, segment.tcp_offset, segment.header_length)
        .unwrap_or_else(|| SynOptions::from_packed(read_options(context.as_ptr().cast(), segment.place())));
    check_signature(context, options.signature(), challenge, &segment)?;
    if is_of_connection(context, &segment) {
        return Err(Unanswered::Passes);
    }
    make(context, frame, &segment, challenge, options).ok_or(Unanswered::Passes)
}

/// Tells a SYN that the kernel may answer because it is signed from one that claims to be, to get past the challenge.
#[inline(always)]
fn check_signature(
    context: &Context,
    signature: Signature,
    challenge: &PortChallenge,
    segment: &Segment,
) -> Result<(), Unanswered> {
    let keys = match signature {
        Signature::None => return Ok(()),
        Signature::Md5 => port_flag::MD5_KEYS,
        Signature::Authentication => port_flag::AUTHENTICATION_KEYS,
    };
    let now = Now::read();
    let standing = rules::standing_of(segment.source, Lease::read(now), now);
    if !challenge.has(keys) && !matches!(standing, Standing::Allowed) {
        return Err(Unanswered::Signed);
    }
    // What the kernel takes for unsigned is answered as such.
    if is_signed(context.as_ptr().cast(), segment.place()) != 0 { Err(Unanswered::Passes) } else { Ok(()) }
}

/// Returns 1 if the kernel takes a SYN for signed. It is a global function, as [`read_options`] is.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn is_signed(context: *mut RawContext, place: u64) -> u32 {
    let frame = Frame::of(&Context::new(context));
    let (tcp_offset, header_length) = packet::tcp_at(place);
    syn_options::is_signed(&frame, tcp_offset, header_length).into()
}

#[inline(always)]
fn make(
    context: &Context,
    frame: Frame,
    segment: &Segment,
    challenge: &PortChallenge,
    options: SynOptions,
) -> Option<()> {
    let is_ipv4 = segment.source.is_ipv4();
    let cookie = cookie::make(segment, options.mss())?;
    let answer = SynAck::new(segment, options, cookie, challenge, timestamp_milliseconds());

    let ip_length = if is_ipv4 { IPV4_HEADER_LENGTH } else { IPV6_HEADER_LENGTH };
    let tcp_offset = segment.ip_offset + ip_length;
    let end = tcp_offset + answer.length;
    let frame = frame.resized(context, if end > MIN_FRAME { end } else { MIN_FRAME })?;
    swap_hardware_addresses(&frame)?;
    if is_ipv4 {
        frame.write(
            segment.ip_offset,
            syn_ack::ipv4_header(segment.destination, segment.source, answer.length, challenge.time_to_live),
        )?;
    } else {
        write_ipv6_header(&frame, segment, syn_ack::ipv6_head(answer.length, challenge.hop_limit))?;
    }
    frame.write(tcp_offset, answer.head)?;
    if answer.length >= UNSCALED_LENGTH {
        frame.write(tcp_offset + PLAIN_LENGTH, answer.stamps)?;
    }
    if answer.length == FULL_LENGTH {
        frame.write(tcp_offset + UNSCALED_LENGTH, answer.scale)?;
    }
    if end + 2 == MIN_FRAME {
        // The only answer that is shorter than the minimum: IPv4 without tags and without timestamps.
        frame.write(end, [Be16::new(0)])?;
    }
    Some(())
}

/// Returns whether the kernel has a socket of the connection that a SYN asks for: most often one in TIME_WAIT, of a client
/// that uses its port again. The kernel accepts such a SYN (RFC 9293, section 3.10.7.4), but would take the ACK that returns
/// a cookie for a segment of the past connection. Sources that completed no handshake have none, and cost no look-up.
#[inline(always)]
fn is_of_connection(context: &Context, segment: &Segment) -> bool {
    let entry = sources::find_known(Source::new(segment.source));
    entry.is_some_and(|entry| entry.completed > 0) && connections::has_connection(context, segment) == Some(true)
}

/// Returns the options as one number, whatever their layout. It is a global function, which the verifier checks on its
/// own: the paths through the options end here.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn read_options(context: *mut RawContext, place: u64) -> u64 {
    let frame = Frame::of(&Context::new(context));
    let (tcp_offset, header_length) = packet::tcp_at(place);
    SynOptions::read(&frame, tcp_offset, header_length).packed()
}

/// Returns the time of the kernel's TCP timestamp clock, in milliseconds.
#[inline(always)]
fn timestamp_milliseconds() -> u32 {
    let milliseconds = (time::jiffies() * 1000).checked_div(settings::ticks_per_second()).unwrap_or(0);
    milliseconds.wrapping_add(lease::timestamp_offset()) as u32
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

//! Turning a SYN into its SYN-ACK with a cookie.

use aya_ebpf::EbpfContext as _;
use tcpguard_common::{
    abi::{
        port::{PortChallenge, port_flag},
        rule::Standing,
    },
    challenge::{
        syn_ack::{FULL_LENGTH, PLAIN_LENGTH, SynAck, UNSCALED_LENGTH},
        syn_options::{self, Signature, SynOptions},
    },
    packet::{self, Segment},
};

use super::{
    cookie, listeners,
    reply::{self, Hops},
};
use crate::{
    accounting::sources,
    frame::Frame,
    hook::{Context, RawContext},
    kernel::connections,
    lease::{self, Lease},
    rules, settings,
    source::Source,
    time::{self, Now},
};

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
    let challenge = listeners::challenge_of(segment.destination_port.into()).ok_or(Unanswered::Passes)?;
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
    match classify_signed(context.as_ptr().cast(), segment.place(), challenge.has(keys).into()) {
        SIGNED => Err(Unanswered::Signed),
        PASSES => Err(Unanswered::Passes),
        _ => Ok(()),
    }
}

/// The SYN is left to the kernel.
const PASSES: u32 = 0;
/// Only a listener with keys could answer the SYN, and there is none.
const SIGNED: u32 = 1;
/// The kernel takes the SYN for unsigned: it is answered as such.
const UNSIGNED: u32 = 2;

/// Classifies a SYN with a signature's option as one of the constants above; `has_keys` is not 0 if a listener of its port may
/// have keys. It is a global function, as [`read_options`] is.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn classify_signed(context: *mut RawContext, place: u64, has_keys: u32) -> u32 {
    let frame = Frame::of(&Context::new(context));
    let Some(segment) = Segment::at(&frame, place) else { return PASSES };
    let now = Now::read();
    let standing = rules::standing_of(segment.source, Lease::read(now), now);
    if has_keys == 0 && !matches!(standing, Standing::Allowed) {
        return SIGNED;
    }
    let (tcp_offset, header_length) = packet::tcp_at(place);
    if syn_options::is_signed(&frame, tcp_offset, header_length) { PASSES } else { UNSIGNED }
}

#[inline(always)]
fn make(
    context: &Context,
    frame: Frame,
    segment: &Segment,
    challenge: &PortChallenge,
    options: SynOptions,
) -> Option<()> {
    let cookie = cookie::make(segment, options.mss())?;
    let answer = SynAck::new(segment, options, cookie, challenge, timestamp_milliseconds());

    let (frame, tcp_offset) = reply::begin(context, frame, segment, Hops::of(challenge), answer.length)?;
    frame.write(tcp_offset, answer.head)?;
    if answer.length >= UNSCALED_LENGTH {
        frame.write(tcp_offset + PLAIN_LENGTH, answer.stamps)?;
    }
    if answer.length == FULL_LENGTH {
        frame.write(tcp_offset + UNSCALED_LENGTH, answer.scale)?;
    }
    reply::fill(&frame, tcp_offset + answer.length)
}

/// Returns whether the kernel has a socket of the connection that a SYN asks for: most often one in TIME_WAIT, of a client
/// that uses its port again. The kernel accepts such a SYN (RFC 9293, section 3.10.7.4), but would take the ACK that returns
/// a cookie for a segment of the past connection. Sources that completed no handshake have none, and cost no look-up.
#[inline(always)]
fn is_of_connection(context: &Context, segment: &Segment) -> bool {
    let entry = sources::find(Source::new(segment.source));
    entry.is_some_and(|entry| entry.completed > 0) && has_connection(context.as_ptr().cast(), segment.place()) != 0
}

/// Returns 1 if the kernel has a socket of the connection of the segment at this place. It is a global function, as
/// [`read_options`] is.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn has_connection(context: *mut RawContext, place: u64) -> u32 {
    let context = Context::new(context);
    let Some(segment) = Segment::at(&Frame::of(&context), place) else { return 0 };
    (connections::has_connection(&context, &segment) == Some(true)).into()
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

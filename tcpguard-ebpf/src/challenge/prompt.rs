//! Turning a SYN into a SYN-ACK that its client resets.

use tcpguard_common::{
    challenge::{safe_reset::acknowledgement, syn_ack},
    packet::{self, TCP_HEADER_LENGTH},
};

use super::{listeners, reply, safe_reset};
use crate::{frame::Frame, hook::Context};

/// Turns the frame into the answer to the SYN that it holds; `None`, with an unchanged frame, if that is impossible.
///
/// The answer has no options: its client looks at nothing but the number that it acknowledges.
#[inline(always)]
pub fn prompt(context: &Context) -> Option<()> {
    let frame = Frame::of(context);
    let syn = packet::parse(&frame).ok()?;
    let terms = listeners::challenge_of(syn.destination_port)?;
    let number = acknowledgement(syn.sequence, safe_reset::code_of(&syn));
    // Any sequence number will do. This one is no secret: it tells nothing that the answer does not tell anyway. No connection
    // has the window; connection tracking of older kernels drops a reset whose number lies further back than it is wide.
    let header = syn_ack::without_options(&syn, number.reverse_bits(), number, u16::MAX);
    let (frame, tcp_offset) = reply::begin(context, frame, &syn, terms, TCP_HEADER_LENGTH)?;
    frame.write(tcp_offset, header)?;
    reply::fill(&frame, tcp_offset + TCP_HEADER_LENGTH)
}

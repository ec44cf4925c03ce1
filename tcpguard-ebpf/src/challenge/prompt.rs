//! Turning a SYN into a SYN-ACK that its client resets.

use tcpguard_common::{
    challenge::{
        safe_reset::{acknowledgement, sequence_of_answer},
        syn_ack,
    },
    packet::{self, TCP_HEADER_LENGTH},
};

use super::{
    listeners,
    reply::{self, Hops},
    safe_reset,
};
use crate::{frame::Frame, hook::Context};

/// Turns the frame into the answer to the SYN that it holds; `None`, with an unchanged frame, if that is impossible.
///
/// The answer has no options: its client looks at nothing but the number that it acknowledges.
#[inline(always)]
pub fn prompt(context: &Context) -> Option<()> {
    let frame = Frame::of(context);
    let syn = packet::parse(&frame).ok()?;
    // A port that is redirected and one of a protected network have no terms of their own.
    let terms = listeners::challenge_of(syn.destination_port.into())?;
    let hops = if terms.time_to_live == 0 { Hops::USUAL } else { Hops::of(terms) };
    let number = acknowledgement(syn.sequence, safe_reset::code_of(&syn));
    // No connection has this window; connection tracking of older kernels drops a reset whose number lies further back than it
    // is wide.
    let header = syn_ack::without_options(&syn, sequence_of_answer(number), number, u16::MAX);
    let (frame, tcp_offset) = reply::begin(context, frame, &syn, hops, TCP_HEADER_LENGTH)?;
    frame.write(tcp_offset, header)?;
    reply::fill(&frame, tcp_offset + TCP_HEADER_LENGTH)
}

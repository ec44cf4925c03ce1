//! tcpguard's BPF programs: the life of a packet, and of a handshake, from the top.
//!
//! | program | runs | does |
//! | --- | --- | --- |
//! | [`tcpguard`] | for each frame that a guarded interface receives, at the [`hook`] | reads it, counts it, accounts SYNs and resets to their source |
//! | [`answer_syn`] | for each SYN that is challenged with a cookie | turns it into its answer |
//! | [`handshake_completed`] | when the kernel completes a handshake, or a listener opens or closes | accounts it to its source; notes the port |
//! | [`syn_ack_retried`] | when the kernel sends a SYN-ACK again | accounts it to its source |
//! | [`clock`] | when the daemon asks | says what time it is in jiffies |
//! | [`block_source`] | when the daemon asks | blocks a source for a while |
//! | [`prime_listener`] | when the daemon asks | makes a listener ready for cookies |
//!
//! Every outcome of a packet is named in [`outcome::Outcome`], and one table there says what becomes of it.

#![no_std]
#![no_main]

mod accounts;
mod arrival;
mod challenge;
mod connections;
mod control;
mod destination;
mod events;
mod frame;
mod guard;
mod hook;
mod instance;
mod outcome;
mod rules;
mod settings;
mod socket;
mod stages;
mod time;

#[cfg(feature = "tc")]
use aya_ebpf::macros::classifier;
use aya_ebpf::{
    bindings::xdp_action,
    macros::{btf_tracepoint, xdp},
    programs::{BtfTracePointContext, XdpContext},
};
use tcpguard_common::{
    challenge::PrimeOrder,
    counters::Counter,
    drops::DropReason,
    event::BlockOrder,
    packet::{self, PacketBytes, SegmentKind, Unread},
};

use crate::{
    accounts::counts,
    arrival::{Arrival, Source},
    frame::Frame,
    hook::{Context, Verdict},
    outcome::Outcome,
    socket::{Handshake, Listener},
};

/// Every frame comes by here. Whatever goes wrong, it passes.
#[cfg_attr(not(feature = "tc"), xdp)]
#[cfg_attr(feature = "tc", classifier)]
#[inline(always)]
pub fn tcpguard(context: Context) -> Verdict {
    hook::prepare(&context);
    let outcome = inspect(&context);
    counts::record_packet(outcome);
    if outcome.is_challenged() {
        challenge::answer_next(&context);
    }
    if !outcome.is_dropped() {
        hook::hand_on(&context);
    }
    hook::verdict(outcome.is_dropped())
}

/// Goes on with a SYN that is to be answered. It is a program of its own, which [`tcpguard`] ends in: the
/// verifier looks at it by itself, and it has the whole stack.
#[cfg_attr(not(feature = "tc"), xdp)]
#[cfg_attr(feature = "tc", classifier)]
pub fn answer_syn(context: Context) -> Verdict {
    if challenge::answer(&context) {
        return hook::reply(&context);
    }
    counts::add(Counter::ChallengeFailed);
    hook::hand_on(&context);
    hook::verdict(false)
}

#[inline(always)]
fn inspect(context: &Context) -> Outcome {
    let segment = match packet::parse(&Frame::of(context)) {
        Ok(segment) => segment,
        Err(Unread::BadDataOffset) => {
            return stages::malformed(DropReason::BadDataOffset).unwrap_or(Outcome::unread(Unread::BadDataOffset));
        }
        Err(reason) => return Outcome::unread(reason),
    };
    match segment.flags.kind() {
        SegmentKind::Syn => syn(context, &Arrival::new(&segment)),
        kind @ SegmentKind::Rst => {
            accounts::reset(&segment);
            guard::stray(context, &segment, kind).unwrap_or(Outcome::read(kind))
        }
        kind @ SegmentKind::Ack => guard::stray(context, &segment, kind).unwrap_or(Outcome::read(kind)),
        kind @ SegmentKind::BadFlags => stages::malformed(DropReason::BadFlags).unwrap_or(Outcome::read(kind)),
        kind @ SegmentKind::SynAck => Outcome::read(kind),
    }
}

/// The life of a SYN: the first stage that drops it ends it; the last accounts it to its source, and may have it
/// answered.
#[inline(always)]
fn syn(context: &Context, arrival: &Arrival) -> Outcome {
    if let Some(outcome) = stages::port_zero(arrival) {
        return outcome;
    }
    let (standing, denied) = stages::rules(arrival);
    if let Some(outcome) = denied {
        return outcome;
    }
    if let Some(outcome) = stages::payload(arrival, standing) {
        return outcome;
    }
    accounts::syn(context, arrival, standing)
}

/// Tracepoint `sock:inet_sock_set_state`.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn handshake_completed(context: BtfTracePointContext) -> i32 {
    if !instance::is_ours() {
        return 0;
    }
    if let Some(handshake) = Handshake::completed(&context) {
        accounts::completed(&handshake);
    } else if let Some(listener) = Listener::changed(&context) {
        challenge::note_listener(listener.port, listener.is_open);
    }
    0
}

/// Tracepoint `tcp:tcp_retransmit_synack`.
#[btf_tracepoint(function = "tcp_retransmit_synack")]
pub fn syn_ack_retried(context: BtfTracePointContext) -> i32 {
    if !instance::is_ours() {
        return 0;
    }
    if let Some(handshake) = Handshake::retried(&context) {
        accounts::retried(&handshake);
    }
    0
}

/// Writes the jiffies of now into the first eight bytes of the packet it is run on.
#[xdp]
pub fn clock(context: XdpContext) -> u32 {
    if Frame::of_order(&context).write_start(time::jiffies().to_ne_bytes()) {
        xdp_action::XDP_PASS
    } else {
        xdp_action::XDP_ABORTED
    }
}

/// Does what the packet it is run on orders: a [`BlockOrder`].
#[xdp]
pub fn block_source(context: XdpContext) -> u32 {
    let order: Option<BlockOrder> = Frame::of_order(&context).read(0);
    match order {
        Some(order) if accounts::block(Source::new(order.source()), order.until()) => xdp_action::XDP_PASS,
        _ => xdp_action::XDP_ABORTED,
    }
}

/// Does what the packet it is run on orders: a [`PrimeOrder`].
#[xdp]
pub fn prime_listener(context: XdpContext) -> u32 {
    let order: Option<PrimeOrder> = Frame::of_order(&context).read(0);
    match order {
        Some(order) if challenge::prime::prime(&context, &order) => xdp_action::XDP_PASS,
        _ => xdp_action::XDP_ABORTED,
    }
}

/// Helpers that are for GPL-compatible programs only want to read this.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing here can panic; the verifier would refuse the loop if anything could.
    loop {}
}

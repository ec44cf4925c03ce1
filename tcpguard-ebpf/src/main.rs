//! tcpguard's BPF programs: the life of a packet, and of a handshake, from the top.
//!
//! | program | runs | does |
//! | --- | --- | --- |
//! | [`tcpguard`] | for each frame that a guarded interface receives | reads it, counts it, accounts SYNs and resets to their source |
//! | [`handshake_completed`] | when the kernel completes a handshake | accounts it to its source |
//! | [`syn_ack_retried`] | when the kernel sends a SYN-ACK again | accounts it to its source |
//! | [`clock`] | when the daemon asks | says what time it is in jiffies |
//!
//! Every outcome of a packet is named in [`outcome::Outcome`], and one table there says what becomes of it.

#![no_std]
#![no_main]

mod accounts;
mod events;
mod frame;
mod outcome;
mod settings;
mod socket;
mod time;

use aya_ebpf::{
    bindings::xdp_action,
    macros::{btf_tracepoint, xdp},
    programs::{BtfTracePointContext, XdpContext},
};
use tcpguard_common::{
    counters::Counter,
    packet::{self, Segment, SegmentKind},
};

use crate::{accounts::counts, frame::Frame, outcome::Outcome, socket::Handshake};

/// Every frame comes by here. Whatever goes wrong, it passes.
#[xdp]
pub fn tcpguard(context: XdpContext) -> u32 {
    let outcome = inspect(&context);
    counts::record_packet(outcome);
    outcome.action()
}

#[inline(always)]
fn inspect(context: &XdpContext) -> Outcome {
    let segment = match packet::parse(&Frame::of(context)) {
        Ok(segment) => segment,
        Err(reason) => return Outcome::Unread(reason),
    };
    match segment.flags.kind() {
        SegmentKind::Syn => account_syn(context, &segment),
        SegmentKind::Rst => account_reset(&segment),
        kind @ (SegmentKind::Ack | SegmentKind::SynAck | SegmentKind::BadFlags) => Outcome::Read(kind),
    }
}

#[inline(always)]
fn account_syn(context: &XdpContext, segment: &Segment) -> Outcome {
    if segment.payload_length > 0 {
        counts::add(Counter::SynWithPayload);
    }
    if accounts::syn(context, segment) { Outcome::Read(SegmentKind::Syn) } else { Outcome::SynUntracked }
}

#[inline(always)]
fn account_reset(segment: &Segment) -> Outcome {
    accounts::reset(segment);
    Outcome::Read(SegmentKind::Rst)
}

/// Tracepoint `sock:inet_sock_set_state`.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn handshake_completed(context: BtfTracePointContext) -> i32 {
    if let Some(handshake) = Handshake::completed(&context) {
        accounts::completed(&handshake);
    }
    0
}

/// Tracepoint `tcp:tcp_retransmit_synack`.
#[btf_tracepoint(function = "tcp_retransmit_synack")]
pub fn syn_ack_retried(context: BtfTracePointContext) -> i32 {
    if let Some(handshake) = Handshake::retried(&context) {
        accounts::retried(&handshake);
    }
    0
}

/// Writes the jiffies of now into the first eight bytes of the packet it is run on.
#[xdp]
pub fn clock(context: XdpContext) -> u32 {
    if Frame::of(&context).write_start(time::jiffies().to_ne_bytes()) {
        xdp_action::XDP_PASS
    } else {
        xdp_action::XDP_ABORTED
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

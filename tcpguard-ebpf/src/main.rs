//! tcpguard's BPF programs.
//!
//! | program | runs | does |
//! | --- | --- | --- |
//! | [`tcpguard`] | for each frame that a guarded interface receives, at the [`hook`] | runs the [`pipeline`] and counts the verdict |
//! | [`judge_behind`] | for each SYN to a destination behind this host | continues with the [`pipeline`] |
//! | [`answer_syn`] | for each SYN that is challenged with a cookie | turns it into its SYN-ACK |
//! | [`prompt_reset`] | for each SYN that is challenged by reset | turns it into a SYN-ACK that its client resets |
//! | [`handshake_completed`] | when the kernel completes a handshake, or a listener opens or closes | accounts it to its source; notes the port |
//! | [`syn_ack_retried`] | when the kernel retransmits a SYN-ACK | accounts it to its source |
//! | [`segment_sent`] | when the kernel sends a segment, while handshakes behind this host are observed | notes SYN-ACKs of servers |
//! | [`clock`] | at the daemon's request | returns the time in jiffies |
//! | [`block_source`] | at the daemon's request | blocks a source temporarily |
//! | [`prime_listener`] | at the daemon's request | prepares a listener for cookies |

#![no_std]
#![no_main]

mod accounting;
mod behind;
mod by_cpu;
mod challenge;
mod events;
mod frame;
mod hook;
mod kernel;
mod lease;
mod local;
mod outline;
mod pipeline;
mod rules;
mod settings;
mod signatures;
mod source;
mod stages;
mod syn;
mod takeover;
mod time;
mod verdict;

#[cfg(feature = "tc")]
use aya_ebpf::macros::classifier;
use aya_ebpf::{
    bindings::xdp_action,
    macros::{btf_tracepoint, xdp},
    programs::{BtfTracePointContext, XdpContext},
};
use tcpguard_common::{
    abi::{
        counters::{Counter, DropReason},
        lease::flag,
        request::{BlockRequest, PrimeRequest},
    },
    hash,
    wire::PacketBytes,
};

use crate::{
    accounting::counters,
    challenge::{
        answer::{self, Unanswered},
        listeners, prime, prompt, returned_cookie,
    },
    frame::Frame,
    hook::{Action, Context},
    kernel::{
        handshake::{Handshake, Listener},
        sent::SentSegment,
    },
    lease::Lease,
    source::Source,
    time::Now,
    verdict::Verdict,
};

/// Runs for every frame. Whatever goes wrong, the frame passes.
#[cfg_attr(not(feature = "tc"), xdp)]
#[cfg_attr(feature = "tc", classifier)]
#[inline(always)]
pub fn tcpguard(context: Context) -> Action {
    hook::prepare(&context);
    let verdict = pipeline::inspect(&context);
    carry_out(&context, verdict)
}

/// Continues with a SYN whose handshake completes behind this host; a program of its own, which [`tcpguard`] tail-calls.
#[cfg_attr(not(feature = "tc"), xdp)]
#[cfg_attr(feature = "tc", classifier)]
#[inline(always)]
pub fn judge_behind(context: Context) -> Action {
    let verdict = pipeline::inspect_behind(&context);
    carry_out(&context, verdict)
}

/// Counts a frame by its verdict, and does what it says.
#[inline(always)]
fn carry_out(context: &Context, verdict: Verdict) -> Action {
    if counters::record_packet(verdict, lease::wake()) {
        events::wake_daemon();
    }
    if let Some(place) = verdict.answer() {
        challenge::answer_next(context, place);
    }
    if !verdict.is_dropped() {
        hook::pass_on(context);
    }
    hook::action(verdict.is_dropped())
}

/// Continues with a SYN that is to be answered. It is a program of its own, which [`tcpguard`] tail-calls: the verifier
/// checks it separately, and it has the whole stack.
#[cfg_attr(not(feature = "tc"), xdp)]
#[cfg_attr(feature = "tc", classifier)]
pub fn answer_syn(context: Context) -> Action {
    let signed = DropReason::SignedSyn;
    match answer::answer(&context) {
        Ok(()) => return hook::reply(&context),
        Err(Unanswered::Signed) if Lease::read(Now::read()).drop(signed).is_err() => {
            counters::add(signed.counter());
            return hook::action(true);
        }
        Err(Unanswered::Signed | Unanswered::Passes) => {}
    }
    counters::add(Counter::ChallengeFailed);
    hook::pass_on(&context);
    hook::action(false)
}

/// Continues with a SYN that is to be answered so that its client resets it; a program of its own, likewise.
#[cfg_attr(not(feature = "tc"), xdp)]
#[cfg_attr(feature = "tc", classifier)]
pub fn prompt_reset(context: Context) -> Action {
    if prompt::prompt(&context).is_some() {
        return hook::reply(&context);
    }
    counters::add(Counter::ChallengeFailed);
    hook::pass_on(&context);
    hook::action(false)
}

/// Tracepoint `sock:inet_sock_set_state`.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn handshake_completed(context: BtfTracePointContext) -> i32 {
    if !takeover::owns_maps() {
        return 0;
    }
    if let Some(handshake) = Handshake::completed(&context) {
        let (source, now) = (Source::new(handshake.source), Now::read());
        let (is_counted, begun) = accounting::completed(source, &handshake, now);
        if is_counted {
            returned_cookie::spend(source, &handshake);
        }
        signatures::note_completed(source, hash::client(source.hash, handshake.remote_port), begun, now);
    } else if let Some(listener) = Listener::changed(&context) {
        listeners::note_listener(listener.port, listener.is_open);
    }
    0
}

/// Tracepoint `tcp:tcp_retransmit_synack`.
#[btf_tracepoint(function = "tcp_retransmit_synack")]
pub fn syn_ack_retried(context: BtfTracePointContext) -> i32 {
    if !takeover::owns_maps() {
        return 0;
    }
    if let Some(handshake) = Handshake::retried(&context) {
        accounting::retried(&handshake);
    }
    0
}

/// Tracepoint `net:net_dev_start_xmit`.
#[btf_tracepoint(function = "net_dev_start_xmit")]
pub fn segment_sent(context: BtfTracePointContext) -> i32 {
    if lease::flags() & flag::BEHIND == 0 || !takeover::owns_maps() {
        return 0;
    }
    if let Some(segment) = SentSegment::read(&context) {
        accounting::sent(&segment, Now::read());
    }
    0
}

/// Writes the current time in jiffies into the first eight bytes of the packet that it runs on.
#[xdp]
pub fn clock(context: XdpContext) -> u32 {
    if Frame::of_request(&context).write_start(time::jiffies().to_ne_bytes()) {
        xdp_action::XDP_PASS
    } else {
        xdp_action::XDP_ABORTED
    }
}

/// Executes the [`BlockRequest`] that it runs on.
#[xdp]
pub fn block_source(context: XdpContext) -> u32 {
    let request: Option<BlockRequest> = Frame::of_request(&context).read(0);
    match request {
        Some(request) if accounting::block(Source::new(request.source()), request.until()) => xdp_action::XDP_PASS,
        _ => xdp_action::XDP_ABORTED,
    }
}

/// Executes the [`PrimeRequest`] that it runs on.
#[xdp]
pub fn prime_listener(context: XdpContext) -> u32 {
    let request: Option<PrimeRequest> = Frame::of_request(&context).read(0);
    match request {
        Some(request) if prime::prime(&context, &request) => xdp_action::XDP_PASS,
        _ => xdp_action::XDP_ABORTED,
    }
}

/// Read by the kernel: some helpers are reserved for GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing here can panic; the verifier would refuse this loop if anything could.
    loop {}
}

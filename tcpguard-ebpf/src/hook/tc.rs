//! The ingress of traffic control (TCX, or a clsact qdisc).

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::generated::{bpf_redirect, bpf_skb_change_tail, bpf_skb_pull_data},
    programs::TcContext,
};
use tcpguard_common::packet::MAX_EXTENSIONS_LENGTH;

/// The context of a program.
pub type Context = TcContext;
/// The context as the kernel passes it.
pub type RawContext = __sk_buff;
/// The return value of a program.
pub type Action = i32;

/// Bytes that contain every header that is parsed: Ethernet, two tags, IPv6 with extensions, TCP with options.
const HEADERS: u32 = 512;
const _: () = assert!(14 + 2 * 4 + 40 + MAX_EXTENSIONS_LENGTH + 60 <= HEADERS as usize);

/// Makes the headers accessible: the kernel may store a part of the frame elsewhere.
#[inline(always)]
pub fn prepare(context: &Context) {
    let length = context.len();
    let wanted = if length < HEADERS { length } else { HEADERS };
    if context.data() + wanted as usize > context.data_end() {
        // SAFETY: the helper checks its arguments. If it fails, the accessible part is parsed.
        unsafe { bpf_skb_pull_data(context.skb.skb, wanted) };
    }
}

/// Returns the action for a frame that is dropped, or passes to the next program.
#[inline(always)]
pub const fn action(is_dropped: bool) -> Action {
    if is_dropped { TC_ACT_SHOT } else { TC_ACT_UNSPEC }
}

/// Sends the frame back through the interface that received it.
#[inline(always)]
pub fn reply(context: &Context) -> Action {
    // SAFETY: the verifier knows the buffer's fields.
    unsafe { bpf_redirect((*context.skb.skb).ifindex, 0) as i32 }
}

/// Makes the frame `length` bytes long; returns false if there is no room. This also discards the kernel's record of the
/// frame's checksum, so that it is done even if the length stays: a frame of a container may have no checksum yet.
#[inline(always)]
pub fn resize(context: &Context, length: usize, delta: isize) -> bool {
    // SAFETY: the helper checks its arguments; pointers into the frame are no longer used.
    unsafe {
        if delta == 0 && bpf_skb_change_tail(context.skb.skb, length as u32 + 2, 0) != 0 {
            return false;
        }
        bpf_skb_change_tail(context.skb.skb, length as u32, 0) == 0
    }
}

/// Does nothing: the kernel runs the next program itself.
#[inline(always)]
pub fn pass_on(_: &Context) {}

//! The ingress of traffic control (TCX, or a clsact qdisc).

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::generated::{bpf_redirect, bpf_skb_change_tail, bpf_skb_pull_data},
    programs::TcContext,
};

/// What a program runs on.
pub type Context = TcContext;
/// The same, as the kernel hands it over.
pub type RawContext = __sk_buff;
/// What a program returns.
pub type Verdict = i32;

/// Bytes that hold every header that is read: Ethernet, two tags, IPv6 with extensions, TCP with options.
const HEADERS: u32 = 256;

/// Has the headers at hand: the kernel may keep a part of the frame elsewhere.
#[inline(always)]
pub fn prepare(context: &Context) {
    let length = context.len();
    let wanted = if length < HEADERS { length } else { HEADERS };
    if context.data() + wanted as usize > context.data_end() {
        // SAFETY: the helper checks what it is asked for. Where it fails, what is at hand is read.
        unsafe { bpf_skb_pull_data(context.skb.skb, wanted) };
    }
}

/// What becomes of a frame that is dropped, or not: other programs have their turn then.
#[inline(always)]
pub const fn verdict(is_dropped: bool) -> Verdict {
    if is_dropped { TC_ACT_SHOT } else { TC_ACT_UNSPEC }
}

/// Sends the frame back by the interface that it came by.
#[inline(always)]
pub fn reply(context: &Context) -> Verdict {
    // SAFETY: the verifier knows the buffer's fields.
    unsafe { bpf_redirect((*context.skb.skb).ifindex, 0) as i32 }
}

/// Makes the frame `length` bytes long; false where there is no room. The kernel forgets what it knew of its
/// checksum with that, so that it is done even where the length stays: a frame of a container may have been left
/// without one.
#[inline(always)]
pub fn resize(context: &Context, length: usize, delta: isize) -> bool {
    // SAFETY: the helper checks what it is asked for; what was known of the frame is given up.
    unsafe {
        if delta == 0 && bpf_skb_change_tail(context.skb.skb, length as u32 + 2, 0) != 0 {
            return false;
        }
        bpf_skb_change_tail(context.skb.skb, length as u32, 0) == 0
    }
}

/// Other programs have their turn by themselves.
#[inline(always)]
pub fn hand_on(_: &Context) {}

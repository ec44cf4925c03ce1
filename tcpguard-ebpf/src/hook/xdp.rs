//! XDP.

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    btf_maps::{HashMap, ProgramArray},
    helpers::generated::bpf_xdp_adjust_tail,
    macros::btf_map,
    programs::XdpContext,
};
use tcpguard_common::layout::MOST_CHAINED;

use crate::settings;

/// What a program runs on.
pub type Context = XdpContext;
/// The same, as the kernel hands it over.
pub type RawContext = xdp_md;
/// What a program returns.
pub type Verdict = u32;

/// The programs that were on interfaces before, and are handed what passes.
#[btf_map]
static CHAINED: ProgramArray<{ MOST_CHAINED }> = ProgramArray::new();

/// Index of the interface to place in [`CHAINED`].
#[btf_map]
static CHAINED_INTERFACES: HashMap<u32, u32, { MOST_CHAINED }> = HashMap::new();

/// A frame is at hand as it is.
#[inline(always)]
pub fn prepare(_: &Context) {}

/// What becomes of a frame that is dropped, or not.
#[inline(always)]
pub const fn verdict(is_dropped: bool) -> Verdict {
    if is_dropped { xdp_action::XDP_DROP } else { xdp_action::XDP_PASS }
}

/// Sends the frame back by the interface that it came by.
#[inline(always)]
pub fn reply(_: &Context) -> Verdict {
    xdp_action::XDP_TX
}

/// Makes the frame longer or shorter by so many bytes; false where the driver has no room.
#[inline(always)]
pub fn resize(context: &Context, _: usize, delta: isize) -> bool {
    // SAFETY: the helper checks what it is asked for; what was known of the frame is given up.
    delta == 0 || unsafe { bpf_xdp_adjust_tail(context.ctx, delta as i32) } == 0
}

/// Hands a frame that passes on to the program that was on its interface before. It returns where there is none.
#[inline(always)]
pub fn hand_on(context: &Context) {
    if settings::chains() == 0 {
        return;
    }
    // SAFETY: the verifier knows the context's fields.
    let interface = unsafe { (*context.ctx).ingress_ifindex };
    if let Some(place) = CHAINED_INTERFACES.get_ptr(interface) {
        // SAFETY: the entry stays readable until the program ends; a tail call does not return on success.
        unsafe { CHAINED.tail_call(context, *place) };
    }
}

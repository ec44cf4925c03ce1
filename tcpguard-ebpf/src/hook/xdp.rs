//! XDP.

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    btf_maps::{HashMap, ProgramArray},
    helpers::generated::bpf_xdp_adjust_tail,
    macros::btf_map,
    programs::XdpContext,
};
use tcpguard_common::abi::names::MAX_CHAINED;

use crate::settings;

/// The context of a program.
pub type Context = XdpContext;
/// The context as the kernel passes it.
pub type RawContext = xdp_md;
/// The return value of a program.
pub type Action = u32;

/// The programs that were attached to interfaces before; frames that pass are passed on to them.
#[btf_map]
static CHAINED: ProgramArray<{ MAX_CHAINED }> = ProgramArray::new();

/// Index of the interface to index in [`CHAINED`].
#[btf_map]
static CHAINED_INTERFACES: HashMap<u32, u32, { MAX_CHAINED }> = HashMap::new();

/// Does nothing: the frame's headers are always accessible.
#[inline(always)]
pub fn prepare(_: &Context) {}

/// Returns the action for a frame that is dropped, or passes.
#[inline(always)]
pub const fn action(is_dropped: bool) -> Action {
    if is_dropped { xdp_action::XDP_DROP } else { xdp_action::XDP_PASS }
}

/// Sends the frame back through the interface that received it.
#[inline(always)]
pub fn reply(_: &Context) -> Action {
    xdp_action::XDP_TX
}

/// Makes the frame longer or shorter by `delta` bytes; returns false if the driver has no room.
#[inline(always)]
pub fn resize(context: &Context, _: usize, delta: isize) -> bool {
    // SAFETY: the helper checks its arguments; pointers into the frame are no longer used.
    delta == 0 || unsafe { bpf_xdp_adjust_tail(context.ctx, delta as i32) } == 0
}

/// Passes a frame on to the program that was attached to its interface before. It returns if there is none.
#[inline(always)]
pub fn pass_on(context: &Context) {
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

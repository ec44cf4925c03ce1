//! What the headers of SYNs have in common.

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use tcpguard_common::{
    abi::syn_headers::SynHeaders,
    packet::{Segment, Shape},
};

#[btf_map]
static SYN_HEADERS: PerCpuArray<SynHeaders, 1> = PerCpuArray::new();

#[inline(always)]
pub fn observe(segment: &Segment) {
    let Some(headers) = SYN_HEADERS.get_ptr_mut(0) else { return };
    // SAFETY: the element belongs to this CPU.
    unsafe { &mut *headers }.count(Shape::of(segment));
}

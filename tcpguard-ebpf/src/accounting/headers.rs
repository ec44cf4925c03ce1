//! What the headers of SYNs have in common.

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use tcpguard_common::{abi::syn_headers::SynHeaders, packet::Segment};

#[btf_map]
static SYN_HEADERS: PerCpuArray<SynHeaders, 1> = PerCpuArray::new();

/// Length of a TCP header without options, in bytes.
const WITHOUT_OPTIONS: usize = 20;

#[inline(always)]
pub fn observe(segment: &Segment) {
    let Some(headers) = SYN_HEADERS.get_ptr_mut(0) else { return };
    // SAFETY: the element belongs to this CPU.
    let headers = unsafe { &mut *headers };
    headers.by_time_to_live[usize::from(segment.time_to_live)] += 1;
    headers.without_options += u64::from(segment.header_length == WITHOUT_OPTIONS);
}

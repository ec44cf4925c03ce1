//! What the SYNs of completed handshakes looked like.

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use tcpguard_common::{abi::signature::CompletedShapes, packet::UNKNOWN_CLASS, tracking::handshake::Begun};

#[btf_map]
static COMPLETED_SHAPES: PerCpuArray<CompletedShapes, 1> = PerCpuArray::new();

/// Counts a completed handshake by the class of its SYN's shape; `proves` if its source was not proven before.
#[inline(always)]
pub fn count_completed(begun: Option<Begun>, proves: bool) {
    let class = begun.map_or(UNKNOWN_CLASS, |begun| begun.class);
    if class == UNKNOWN_CLASS {
        return;
    }
    if let Some(counts) = COMPLETED_SHAPES.get_ptr_mut(0) {
        // SAFETY: the element belongs to this CPU.
        let counts = unsafe { &mut *counts };
        counts.handshakes[usize::from(class)] += 1;
        counts.sources[usize::from(class)] += u64::from(proves);
    }
}

//! The counters, per CPU, and the watch that wakes the daemon.

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use tcpguard_common::abi::{
    counters::{Counter, CpuCounts},
    watch::WakeAt,
};

use crate::verdict::Verdict;

#[btf_map]
static COUNTS: PerCpuArray<CpuCounts, 1> = PerCpuArray::new();

/// Counts a packet, by its verdict. Returns whether the daemon is to be woken.
#[inline(always)]
pub fn record_packet(verdict: Verdict, wake: WakeAt) -> bool {
    let Some(cpu) = this_cpu() else { return false };
    cpu.counts[Counter::Packets as usize] += 1;
    cpu.counts[verdict.counter() as usize] += 1;
    verdict.begins_handshake() && cpu.watch.begin(wake)
}

/// Adds one to `counter`.
#[inline(always)]
pub fn add(counter: Counter) {
    if let Some(cpu) = this_cpu() {
        cpu.counts[counter as usize] += 1;
    }
}

/// Counts the end of a handshake: [`Counter::Completed`] or [`Counter::HandshakesReset`].
#[inline(always)]
pub fn add_end(counter: Counter) {
    if let Some(cpu) = this_cpu() {
        cpu.counts[counter as usize] += 1;
        cpu.watch.end();
    }
}

#[inline(always)]
fn this_cpu<'a>() -> Option<&'a mut CpuCounts> {
    let cpu = COUNTS.get_ptr_mut(0)?;
    // SAFETY: elements of arrays live as long as the program. This one belongs to this CPU, where nothing runs between
    // read and write except one of our programs in an interrupt, which loses at most one count.
    Some(unsafe { &mut *cpu })
}

//! The BPF objects embedded in this binary.

use crate::config::Hook;

static AT_XDP: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tcpguard.bpf.o"));
/// The programs compiled for traffic control.
static AT_TC: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tcpguard-tc.bpf.o"));

/// Returns the object with the programs for `hook`.
pub const fn object_for(hook: Hook) -> &'static [u8] {
    match hook {
        Hook::Xdp => AT_XDP,
        Hook::Tc => AT_TC,
    }
}

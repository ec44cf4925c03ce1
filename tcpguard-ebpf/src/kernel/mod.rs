//! What the kernel knows: its connections, the handshakes that its tracepoints report, and the segments that it sends.

pub mod connections;
pub mod handshake;
pub mod sent;

use aya_ebpf::helpers::bpf_probe_read_kernel;

/// A kernel structure at this address. Fields are copied; a bad address reads as `None`.
#[derive(Clone, Copy)]
struct KernelStruct(usize);

impl KernelStruct {
    #[inline(always)]
    fn read<T>(self, offset: u32) -> Option<T> {
        // SAFETY: the helper checks the address and fails if it cannot be read; T is a number.
        unsafe { bpf_probe_read_kernel((self.0 + offset as usize) as *const T) }.ok()
    }
}

//! What came to which port: SYNs by destination port per CPU, for every port there is; and what
//! became of handshakes, for ports that have completed one.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    btf_maps::{HashMap, PerCpuArray},
    macros::btf_map,
};
use tcpguard_common::{
    atomic,
    layout::{PORT_SLABS, PORTS_PER_SLAB, PortHandshakes, PortSlab},
};

#[btf_map]
static SYN_BY_PORT: PerCpuArray<PortSlab, PORT_SLABS> = PerCpuArray::new();

/// Bounded: a host with more listening ports than this has them counted in the totals only.
#[btf_map]
static HANDSHAKES_BY_PORT: HashMap<u16, PortHandshakes, 4096> = HashMap::new();

/// Counts a SYN, and whether it began no handshake to be judged. Once for each SYN, where its way ends.
#[inline(always)]
pub fn count_syn(port: u16, not_begun: bool) {
    let port = port as usize;
    if let Some(slab) = SYN_BY_PORT.get_ptr_mut((port / PORTS_PER_SLAB) as u32) {
        // SAFETY: the element belongs to this CPU.
        let counts = unsafe { &mut (*slab)[port % PORTS_PER_SLAB] };
        counts.syn += 1;
        counts.not_begun += u64::from(not_begun);
    }
}

#[inline(always)]
pub fn count_completed(port: u16) {
    if let Some(handshakes) = handshakes(port) {
        atomic::add(&mut handshakes.completed, 1);
    }
}

#[inline(always)]
pub fn count_reset(port: u16) {
    if let Some(handshakes) = handshakes(port) {
        atomic::add(&mut handshakes.reset, 1);
    }
}

#[inline(always)]
pub fn count_retried(port: u16) {
    if let Some(handshakes) = handshakes(port) {
        atomic::add(&mut handshakes.retried, 1);
    }
}

#[inline(always)]
fn handshakes<'a>(port: u16) -> Option<&'a mut PortHandshakes> {
    let found = HANDSHAKES_BY_PORT.get_ptr_mut(port).or_else(|| {
        // It fails where another CPU was faster, and then the second look finds that one's.
        HANDSHAKES_BY_PORT.insert(port, PortHandshakes::default(), BPF_NOEXIST.into()).ok();
        HANDSHAKES_BY_PORT.get_ptr_mut(port)
    })?;
    // SAFETY: nothing removes entries of this map while programs run; counts are changed atomically.
    Some(unsafe { &mut *found })
}

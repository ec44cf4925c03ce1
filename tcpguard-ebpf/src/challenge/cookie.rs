//! The kernel's SYN cookies: made for a SYN, and recognised in the segment that returns it.

use aya_ebpf::helpers::generated::{
    bpf_tcp_raw_check_syncookie_ipv4, bpf_tcp_raw_check_syncookie_ipv6, bpf_tcp_raw_gen_syncookie_ipv4,
    bpf_tcp_raw_gen_syncookie_ipv6,
};
use tcpguard_common::{
    challenge::syn_ack::Cookie,
    packet::{Flags, Segment, TCP_HEADER_LENGTH},
    wire::{Be16, PacketBytes},
};

use crate::{frame::Frame, settings};

/// A TCP header with one option: the MSS.
type SynHeader = [Be16; 12];
const SYN_HEADER_LENGTH: u32 = 24;
const MSS_OPTION: u16 = 0x0204;

/// The MSS that the kernel assumes for a SYN without that option, in bytes (`TCP_MSS_DEFAULT`, and the minimum MTU of IPv6
/// less the headers).
const DEFAULT_MSS_IPV4: u16 = 536;
const DEFAULT_MSS_IPV6: u16 = 1220;

/// The helpers read only the addresses of an IPv4 header. The unread fields are set to arbitrary values: clearing them
/// would take a call.
#[repr(C)]
struct Ipv4Addresses {
    unread: [u32; 3],
    source: u32,
    destination: u32,
}

/// The addresses of an IPv6 header, likewise.
#[repr(C)]
struct Ipv6Addresses {
    unread: u64,
    source: [u64; 2],
    destination: [u64; 2],
}

impl Ipv4Addresses {
    #[inline(always)]
    fn of(segment: &Segment) -> Self {
        let (source, destination) = (segment.source.ipv4_be(), segment.destination.ipv4_be());
        Self { unread: [source; 3], source, destination }
    }
}

impl Ipv6Addresses {
    #[inline(always)]
    fn of(segment: &Segment) -> Self {
        Self { unread: segment.place(), source: segment.source.words(), destination: segment.destination.words() }
    }
}

/// Returns the cookie for a SYN that announces an MSS of `mss` bytes (0: none); `None` if the kernel makes none.
#[inline(always)]
pub fn make(segment: &Segment, mss: u16) -> Option<Cookie> {
    if settings::can_make_cookies() == 0 {
        return None;
    }
    let is_ipv4 = segment.source.is_ipv4();
    let default = if is_ipv4 { DEFAULT_MSS_IPV4 } else { DEFAULT_MSS_IPV6 };
    let mut header = syn_header(segment, if mss == 0 { default } else { mss });
    let tcp = (&raw mut header).cast();
    // SAFETY: the helpers read as many bytes of both headers as these have.
    let made = unsafe {
        if is_ipv4 {
            let mut addresses = Ipv4Addresses::of(segment);
            bpf_tcp_raw_gen_syncookie_ipv4((&raw mut addresses).cast(), tcp, SYN_HEADER_LENGTH)
        } else {
            let mut addresses = Ipv6Addresses::of(segment);
            bpf_tcp_raw_gen_syncookie_ipv6((&raw mut addresses).cast(), tcp, SYN_HEADER_LENGTH)
        }
    };
    (made >= 0).then_some(Cookie { sequence: made as u32, mss: (made >> 32) as u16 })
}

/// Returns whether a segment returns a cookie that the kernel would accept; `None` if that cannot be determined.
#[inline(always)]
pub fn is_returned(frame: &Frame, segment: &Segment) -> Option<bool> {
    if settings::can_make_cookies() == 0 {
        return None;
    }
    let mut header = frame.read::<[Be16; TCP_HEADER_LENGTH / 2]>(segment.tcp_offset)?;
    let tcp = (&raw mut header).cast();
    // SAFETY: the helpers read as many bytes of both headers as these have.
    let problem = unsafe {
        if segment.source.is_ipv4() {
            let mut addresses = Ipv4Addresses::of(segment);
            bpf_tcp_raw_check_syncookie_ipv4((&raw mut addresses).cast(), tcp)
        } else {
            let mut addresses = Ipv6Addresses::of(segment);
            bpf_tcp_raw_check_syncookie_ipv6((&raw mut addresses).cast(), tcp)
        }
    };
    Some(problem == 0)
}

#[inline(always)]
fn syn_header(segment: &Segment, mss: u16) -> SynHeader {
    const NOTHING: Be16 = Be16::new(0);
    [
        Be16::new(segment.source_port),
        Be16::new(segment.destination_port),
        Be16::new((segment.sequence >> 16) as u16),
        Be16::new(segment.sequence as u16),
        NOTHING,
        NOTHING,
        Be16::new((SYN_HEADER_LENGTH as u16 / 4) << 12 | Flags::SYN as u16),
        NOTHING,
        NOTHING,
        NOTHING,
        Be16::new(MSS_OPTION),
        Be16::new(mss),
    ]
}

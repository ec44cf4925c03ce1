//! Preparing a listener for cookies. The kernel accepts a cookie only if its listener has sent one itself within the last
//! two minutes. Asking it for a cookie sets the same timestamp (`tcp_synq_overflow`), for all listeners that share a port.

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_sk_lookup_tcp, bpf_sk_release, bpf_tcp_gen_syncookie},
    programs::XdpContext,
};
use tcpguard_common::{abi::request::PrimeRequest, packet::Flags};

use crate::kernel::connections::{TCP_LISTEN, Tuple};

const IPV4_HEADER: u32 = 0x45;
const IPV6_HEADER: u32 = 0x60;

/// The longest IP header that the helper reads, and a SYN without options.
#[repr(C)]
struct Headers {
    ip: [u32; 10],
    tcp: [u32; 5],
}

/// Prepares the listener of `request`. Returns false if there is none, or it has no room for a connection.
#[inline(always)]
pub fn prime(context: &XdpContext, request: &PrimeRequest) -> bool {
    let is_ipv4 = request.is_ipv4();
    let mut tuple = Tuple::to_listener(request.address(), request.port(), request.turn());
    let mut headers = Headers { ip: [0; 10], tcp: [0; 5] };
    // The first byte holds the version.
    headers.ip[0] = if is_ipv4 { IPV4_HEADER.to_le() } else { IPV6_HEADER.to_le() };
    headers.tcp[3] = u32::from_ne_bytes([0x50, Flags::SYN, 0xff, 0xff]);
    // SAFETY: the helper reads as many bytes as it is told; a socket that it returns is released below.
    unsafe {
        let socket = bpf_sk_lookup_tcp(
            context.as_ptr(),
            tuple.as_mut_ptr(),
            Tuple::length(is_ipv4),
            Tuple::CURRENT_NAMESPACE,
            0,
        );
        if socket.is_null() {
            return false;
        }
        let cookie = if (*socket).state == TCP_LISTEN {
            bpf_tcp_gen_syncookie(socket.cast(), (&raw mut headers.ip).cast(), 40, (&raw mut headers.tcp).cast(), 20)
        } else {
            -1
        };
        bpf_sk_release(socket.cast());
        cookie > 0
    }
}

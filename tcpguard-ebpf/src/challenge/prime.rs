//! Making a listener ready for cookies. The kernel takes a cookie only where its listener has sent one itself
//! within the last two minutes; asking it for one sets the same stamp (`tcp_synq_overflow`), for all members
//! of a group that share a port.

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_sk_lookup_tcp, bpf_sk_release, bpf_tcp_gen_syncookie},
    programs::XdpContext,
};
use tcpguard_common::{challenge::PrimeOrder, packet::Flags};

use crate::connections::{TCP_LISTEN, Tuple};

const IPV4_HEADER: u32 = 0x45;
const IPV6_HEADER: u32 = 0x60;

/// The longest header that the helper wants to see, and a SYN without options.
#[repr(C)]
struct Headers {
    ip: [u32; 10],
    tcp: [u32; 5],
}

/// Makes the listener of `order` ready; false where there is none, or it has no room for a connection.
#[inline(always)]
pub fn prime(context: &XdpContext, order: &PrimeOrder) -> bool {
    let is_ipv4 = order.is_ipv4();
    let mut tuple = Tuple::to_listener(order.address(), order.port(), order.turn());
    let mut headers = Headers { ip: [0; 10], tcp: [0; 5] };
    // The first byte says which version it is.
    headers.ip[0] = if is_ipv4 { IPV4_HEADER.to_le() } else { IPV6_HEADER.to_le() };
    headers.tcp[3] = u32::from_ne_bytes([0x50, Flags::SYN, 0xff, 0xff]);
    // SAFETY: the helper reads as many bytes as it is told; what it returns is released below, whenever it
    // is something.
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

//! Look-ups of the kernel's sockets.

use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_sock_tuple,
    helpers::generated::{bpf_sk_release, bpf_skc_lookup_tcp},
};
use tcpguard_common::{address::Address, packet::Segment, wire::Be16};

use crate::hook::Context;

/// A socket's state (include/net/tcp_states.h).
pub const TCP_LISTEN: u32 = 10;

/// The key of a look-up, in the kernel's layout: addresses, then ports, without a gap. Addresses have four bytes each for
/// IPv4 and sixteen for IPv6.
#[repr(C, align(8))]
pub struct Tuple([u32; 10]);

impl Tuple {
    /// The namespace of the interface (`BPF_F_CURRENT_NETNS`).
    pub const CURRENT_NAMESPACE: u64 = u64::MAX;

    /// Returns its length in bytes.
    #[inline(always)]
    pub const fn length(is_ipv4: bool) -> u32 {
        if is_ipv4 { 12 } else { 36 }
    }

    #[inline(always)]
    fn of(segment: &Segment) -> Self {
        Self::new(segment.source, segment.destination, segment.source_port, segment.destination_port)
    }

    /// The key of a listener: a connection to it from the unspecified address.
    #[inline(always)]
    pub fn to_listener(address: Address, port: u16, source_port: u16) -> Self {
        Self::new(address.unspecified(), address, source_port, port)
    }

    #[inline(always)]
    fn new(source: Address, destination: Address, source_port: u16, destination_port: u16) -> Self {
        let ports = ports(Be16::new(source_port), Be16::new(destination_port));
        let mut words = [0; 10];
        if source.is_ipv4() {
            words[0] = source.ipv4_be();
            words[1] = destination.ipv4_be();
            words[2] = ports;
        } else {
            [words[0], words[1], words[2], words[3]] = source.quarters();
            [words[4], words[5], words[6], words[7]] = destination.quarters();
            words[8] = ports;
        }
        Self(words)
    }

    #[inline(always)]
    pub fn as_mut_ptr(&mut self) -> *mut bpf_sock_tuple {
        (&raw mut self.0).cast()
    }
}

#[inline(always)]
const fn ports(source: Be16, destination: Be16) -> u32 {
    let ([a, b], [c, d]) = (source.raw().to_ne_bytes(), destination.raw().to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

/// Returns whether a segment belongs to a connection or a half-open handshake of this namespace; `None` if its port does
/// not even have a listener.
#[inline(always)]
pub fn has_connection(context: &Context, segment: &Segment) -> Option<bool> {
    let mut tuple = Tuple::of(segment);
    // SAFETY: the helper reads as many bytes as it is told; a socket that it returns is released below.
    unsafe {
        let socket = bpf_skc_lookup_tcp(
            context.as_ptr(),
            tuple.as_mut_ptr(),
            Tuple::length(segment.source.is_ipv4()),
            Tuple::CURRENT_NAMESPACE,
            0,
        );
        if socket.is_null() {
            return None;
        }
        let is_connection = (*socket).state != TCP_LISTEN;
        bpf_sk_release(socket.cast());
        Some(is_connection)
    }
}

//! Handshakes and listeners, as the tracepoints report them. The kernel's structures are read at the offsets that the
//! daemon took from its BTF.

use aya_ebpf::programs::BtfTracePointContext;
use tcpguard_common::{abi::socket_layout::SocketLayout, address::Address};

use super::KernelStruct;
use crate::settings;

const TCP_ESTABLISHED: i32 = 1;
const TCP_SYN_RECV: i32 = 3;
const TCP_CLOSE: i32 = 7;
const TCP_LISTEN: i32 = 10;
const IPPROTO_TCP: u16 = 6;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// A handshake, from the server's side.
pub struct Handshake {
    pub source: Address,
    pub remote_port: u16,
    pub local_address: Address,
    pub local_port: u16,
    /// Index of the interface that received its last segment; 0 if unknown.
    pub interface: u32,
    pub is_in_our_namespace: bool,
}

/// A listener of our namespace that opened or closed.
pub struct Listener {
    pub port: u16,
    pub is_open: bool,
}

impl Listener {
    /// Reads the arguments of `inet_sock_set_state`: socket, old state, new state.
    #[inline(always)]
    pub fn changed(context: &BtfTracePointContext) -> Option<Self> {
        let (old_state, new_state): (i32, i32) = (context.arg(1), context.arg(2));
        // A listener's child begins as its copy and leaves this state as well, but not by closing.
        let is_open = new_state == TCP_LISTEN;
        if !is_open && (old_state != TCP_LISTEN || new_state != TCP_CLOSE) {
            return None;
        }
        let layout = settings::socket_layout();
        let socket = KernelStruct(context.arg::<*const u8>(0) as usize);
        if layout.known == 0 || socket.read::<u16>(layout.protocol)? != IPPROTO_TCP {
            return None;
        }
        let is_ours = is_in_our_namespace(socket, &layout)?;
        is_ours.then_some(Self { port: socket.read(layout.local_port)?, is_open })
    }
}

/// Sockets and requests begin with the same `sock_common`.
#[inline(always)]
fn is_in_our_namespace(common: KernelStruct, layout: &SocketLayout) -> Option<bool> {
    let namespace = KernelStruct(common.read(layout.namespace)?);
    Some(namespace.read::<u32>(layout.namespace_inode)? == settings::namespace())
}

impl Handshake {
    /// Reads the arguments of `inet_sock_set_state`: socket, old state, new state.
    #[inline(always)]
    pub fn completed(context: &BtfTracePointContext) -> Option<Self> {
        let (old_state, new_state): (i32, i32) = (context.arg(1), context.arg(2));
        if old_state != TCP_SYN_RECV || new_state != TCP_ESTABLISHED {
            return None;
        }
        let layout = settings::socket_layout();
        let socket = KernelStruct(context.arg::<*const u8>(0) as usize);
        if layout.known == 0 || socket.read::<u16>(layout.protocol)? != IPPROTO_TCP {
            return None;
        }
        Some(Self { interface: socket.read(layout.receive_interface)?, ..Self::read(socket, &layout)? })
    }

    /// Reads the arguments of `tcp_retransmit_synack`: listener, request.
    #[inline(always)]
    pub fn retried(context: &BtfTracePointContext) -> Option<Self> {
        let layout = settings::socket_layout();
        if layout.known == 0 {
            return None;
        }
        Self::read(KernelStruct(context.arg::<*const u8>(1) as usize), &layout)
    }

    #[inline(always)]
    fn read(common: KernelStruct, layout: &SocketLayout) -> Option<Self> {
        let address = |ipv4: u32, ipv6: u32| match common.read::<u16>(layout.family)? {
            AF_INET => Some(Address::from_ipv4_be(common.read(ipv4)?)),
            AF_INET6 => Some(Address::from_words(common.read(ipv6)?)),
            _ => None,
        };
        Some(Self {
            source: address(layout.remote_ipv4, layout.remote_ipv6)?,
            remote_port: u16::from_be(common.read(layout.remote_port)?),
            local_address: address(layout.local_ipv4, layout.local_ipv6)?,
            local_port: common.read(layout.local_port)?,
            interface: 0,
            is_in_our_namespace: is_in_our_namespace(common, layout)?,
        })
    }
}

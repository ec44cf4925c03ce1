//! Where the kernel keeps what is read of packets that it sends.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The offsets of the kernel's fields, in bytes from the start of each structure; like
/// [`super::socket_layout::SocketLayout`], taken from the kernel's BTF.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PacketLayout {
    /// `sk_buff.len`, 32 bits.
    pub length: u32,
    /// `sk_buff.head`, a pointer.
    pub head: u32,
    /// `sk_buff.network_header`, 16 bits: the offset of the IP header from `head`.
    pub network_header: u32,
    /// `sk_buff.skb_iif`, 32 bits: the interface that received the packet; 0 for one of this host's own.
    pub received_on: u32,
    /// `net_device.ifindex`, 32 bits.
    pub device_index: u32,
    /// `net_device.nd_net.net`, a pointer to `struct net`.
    pub device_namespace: u32,
    /// 1 if all of the above are known.
    pub known: u32,
}

impl PacketLayout {
    /// No offset is known: the tracepoint does nothing.
    pub const UNKNOWN: Self =
        Self { length: 0, head: 0, network_header: 0, received_on: 0, device_index: 0, device_namespace: 0, known: 0 };
}

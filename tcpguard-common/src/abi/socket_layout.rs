//! Where the kernel keeps what the tracepoints read.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The offsets of the kernel's fields that the tracepoints read, in bytes from the start of each structure.
/// They are taken from the kernel's BTF, because they differ between kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SocketLayout {
    /// `sock_common.skc_family`, 16 bits.
    pub family: u32,
    /// `sock_common.skc_daddr`, 32 bits, big-endian.
    pub remote_ipv4: u32,
    /// `sock_common.skc_v6_daddr`, 128 bits.
    pub remote_ipv6: u32,
    /// `sock_common.skc_rcv_saddr`, 32 bits, big-endian.
    pub local_ipv4: u32,
    /// `sock_common.skc_v6_rcv_saddr`, 128 bits.
    pub local_ipv6: u32,
    /// `sock_common.skc_dport`, 16 bits, big-endian.
    pub remote_port: u32,
    /// `sock_common.skc_num`, 16 bits.
    pub local_port: u32,
    /// `sock_common.skc_net`, a pointer to `struct net`.
    pub namespace: u32,
    /// `net.ns.inum`, 32 bits.
    pub namespace_inode: u32,
    /// `sock.sk_protocol`, 16 bits.
    pub protocol: u32,
    /// `sock.sk_rx_dst_ifindex`, 32 bits: the interface on which the socket last received.
    pub receive_interface: u32,
    /// 1 if all of the above are known.
    pub known: u32,
}

impl SocketLayout {
    /// No offset is known: the tracepoints do nothing.
    pub const UNKNOWN: Self = Self {
        family: 0,
        remote_ipv4: 0,
        remote_ipv6: 0,
        local_ipv4: 0,
        local_ipv6: 0,
        remote_port: 0,
        local_port: 0,
        namespace: 0,
        namespace_inode: 0,
        protocol: 0,
        receive_interface: 0,
        known: 0,
    };
}

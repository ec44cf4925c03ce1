//! The plan of a flood. This file is also compiled into the BPF program that generates the flood.

/// Length of an Ethernet header with two VLAN tags, in 16-bit words.
pub const MAX_LINK_HEADER: usize = 11;

/// Describes how the flood program permits the template frame into the next frame. All numbers are in host byte order;
/// offsets are in bytes from the start of the frame, and even.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Seed of the random number generator.
    pub seed: u64,
    /// The last eight bytes of the first source address (for IPv4, the address itself).
    pub source_base: u64,
    /// Number of sources; 0 for any of the 2^64 that share the base's upper half (IPv6 only).
    pub sources: u64,
    /// The Ethernet header with its VLAN tags. It is rewritten in every frame, since the kernel moves it when it
    /// removes a tag, and reuses the memory.
    pub link_header: [u16; MAX_LINK_HEADER],
    /// Number of words used of `link_header`.
    pub link_header_words: u16,
    /// Offset of the varying part of the source address: four bytes for IPv4, eight for IPv6.
    pub source_offset: u32,
    /// 1 for IPv6, 0 for IPv4.
    pub is_ipv6: u32,
    /// Offset of the IPv4 header's checksum.
    pub ip_checksum_offset: u32,
    /// Offset of the TCP header.
    pub tcp_offset: u32,
    /// Sum of the IPv4 header's 16-bit words except those that vary.
    pub ip_partial_sum: u32,
    /// Sum of the 16-bit words of the TCP pseudo-header and segment except those that vary.
    pub tcp_partial_sum: u32,
    /// First source port. With sources in turn, the port changes after each round of the sources.
    pub source_port: u32,
    /// Number of source ports.
    pub source_ports: u32,
    /// First destination port.
    pub destination_port: u32,
    /// Number of destination ports.
    pub destination_ports: u32,
    /// 1: sources, ports and sequence numbers are random. 0: sources in turn and sequence numbers by connection, so
    /// that a repeated frame is identical.
    pub random: u32,
    /// Sequence number of the first connection, if `random` is 0.
    pub sequence: u32,
}

/// Maximum length of a frame that can be rewritten, in bytes.
pub const MAX_TEMPLATE: usize = 128;

/// A complete frame, which is rewritten before it is varied.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Template {
    /// Length of the frame in bytes; 0 if frames need not be rewritten.
    pub length: u64,
    /// The frame, in memory order.
    pub words: [u64; MAX_TEMPLATE / 8],
}

/// The state of a running flood.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// State of the random number generator; 0 before the first number.
    pub random: u64,
    /// Number of frames generated.
    pub frames: u64,
}

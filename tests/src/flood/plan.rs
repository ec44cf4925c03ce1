//! What a flood looks like. The same file is compiled into the BPF program that makes it.

/// Words of an Ethernet header with two VLAN tags.
pub const LONGEST_LINK_HEADER: usize = 11;

/// Tells the flood program how to turn the template frame into the next frame. All numbers are in
/// host byte order; offsets count from the start of the frame and are even.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Seed of the random choices.
    pub seed: u64,
    /// The last eight bytes of the first source address (for IPv4, the address itself).
    pub source_base: u64,
    /// Number of sources; 0 for any of the 2^64 that share the base's upper half (IPv6 only).
    pub sources: u64,
    /// The Ethernet header with its VLAN tags. It is written anew into every frame, since the kernel
    /// moves it about in the one that it takes a tag off, and the memory is used again.
    pub link_header: [u16; LONGEST_LINK_HEADER],
    /// Words of it.
    pub link_header_words: u16,
    /// Where the varying part of the source address stands: four bytes for IPv4, eight for IPv6.
    pub source_offset: u32,
    /// 1 for IPv6.
    pub is_ipv6: u32,
    /// Where the IPv4 header's checksum stands.
    pub ip_checksum_offset: u32,
    /// Where the TCP header starts.
    pub tcp_offset: u32,
    /// Sum of the IPv4 header's 16-bit words, those that vary left out.
    pub ip_partial_sum: u32,
    /// The same for the TCP pseudo-header and segment.
    pub tcp_partial_sum: u32,
    /// First source port, and how many there are; source ports change once all sources have had a turn.
    pub source_port: u32,
    /// See `source_port`.
    pub source_ports: u32,
    /// First destination port, and how many there are.
    pub destination_port: u32,
    /// See `destination_port`.
    pub destination_ports: u32,
    /// 1: sources, ports and sequence numbers are chosen at random. 0: sources in turn, and sequence
    /// numbers by connection, so that a frame that comes again is the same to the bit.
    pub random: u32,
    /// The sequence number of the first connection, in turn.
    pub sequence: u32,
}

/// Bytes of a frame that can be written anew.
pub const LONGEST_TEMPLATE: usize = 128;

/// A whole frame, written anew before it is varied.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Template {
    /// Bytes of it; 0 where frames need not be written anew.
    pub length: u64,
    /// The frame, in memory order.
    pub words: [u64; LONGEST_TEMPLATE / 8],
}

/// How far a flood has come.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// State of the random numbers; 0 before the first.
    pub random: u64,
    /// Frames made.
    pub frames: u64,
}

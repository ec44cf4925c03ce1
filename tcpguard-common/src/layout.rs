//! Names and sizes of everything that both halves must agree on. A map's name stands here and at its
//! definition in the datapath (a symbol cannot be computed); loading fails at once where they differ.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::challenge::load::CpuLoad;

/// Names of programs.
pub mod program {
    /// The XDP program.
    pub const GUARD: &str = "tcpguard";
    /// On tracepoint `inet_sock_set_state`.
    pub const HANDSHAKE_COMPLETED: &str = "handshake_completed";
    /// On tracepoint `tcp_retransmit_synack`.
    pub const SYN_ACK_RETRIED: &str = "syn_ack_retried";
    /// Never attached: the other one goes on with it where a SYN is to be answered.
    pub const ANSWER_SYN: &str = "answer_syn";
    /// Never attached: tells the daemon what time the datapath has.
    pub const CLOCK: &str = "clock";
    /// Never attached: blocks a source for a while ([`crate::event::BlockOrder`]).
    pub const BLOCK_SOURCE: &str = "block_source";
    /// Never attached: makes a listener ready for cookies ([`crate::challenge::PrimeOrder`]).
    pub const PRIME_LISTENER: &str = "prime_listener";
}

/// Names of maps.
pub mod map {
    /// Per CPU: [`crate::counters::Counts`].
    pub const COUNTS: &str = "COUNTS";
    /// LRU hash: [`crate::address::Address`] to [`crate::source::SourceEntry`].
    pub const SOURCES: &str = "SOURCES";
    /// Per CPU: [`crate::sketch::Slab`].
    pub const SKETCH: &str = "SKETCH";
    /// Per CPU: [`crate::admission::Admission`].
    pub const ADMISSION: &str = "ADMISSION";
    /// One [`crate::admission::Allowance`].
    pub const ALLOWANCE: &str = "ALLOWANCE";
    /// Array of [`crate::filter::Block`].
    pub const KNOWN_SOURCES: &str = "KNOWN_SOURCES";
    /// Per CPU: [`crate::prefix::Slab`].
    pub const PREFIXES: &str = "PREFIXES";
    /// Per CPU: [`crate::distinct::Registers`].
    pub const DISTINCT: &str = "DISTINCT";
    /// Per CPU: [`super::PortSlab`], SYNs by destination port.
    pub const SYN_BY_PORT: &str = "SYN_BY_PORT";
    /// Hash: local port to [`super::PortHandshakes`].
    pub const HANDSHAKES_BY_PORT: &str = "HANDSHAKES_BY_PORT";
    /// Hash: indices of the interfaces whose handshakes count.
    pub const GUARDED_INTERFACES: &str = "GUARDED_INTERFACES";
    /// One [`crate::control::Control`]: the section of the programs' variables, which holds nothing else.
    pub const CONTROL: &str = ".bss";
    /// LPM trie: [`crate::address::Address`] to [`crate::rule::Rule`].
    pub const RULES: &str = "RULES";
    /// Array of [`crate::local::Set`].
    pub const LOCAL_ADDRESSES: &str = "LOCAL_ADDRESSES";
    /// Array by port: [`crate::listening`].
    pub const LISTENING: &str = "LISTENING";
    /// Array by port: [`crate::control::payload_policy`].
    pub const PAYLOAD_POLICY: &str = "PAYLOAD_POLICY";
    /// Program array: [`super::program::ANSWER_SYN`].
    pub const ANSWER: &str = "ANSWER";
    /// Array by port: how often its listeners changed.
    pub const LISTENER_CHANGES: &str = "LISTENER_CHANGES";
    /// Array by port: [`crate::challenge::PortChallenge`].
    pub const CHALLENGES: &str = "CHALLENGES";
    /// Hash: [`crate::challenge::Endpoint`]s that have a listener.
    pub const ENDPOINTS: &str = "ENDPOINTS";
    /// Array by port: SYNs of this moment.
    pub const PORT_LOADS: &str = "PORT_LOADS";
    /// Array: handshakes that began of late ([`crate::handshake`]).
    pub const HANDSHAKES: &str = "HANDSHAKES";
    /// Array: first SYNs of late ([`crate::challenge::first_syn`]).
    pub const FIRST_SYNS: &str = "FIRST_SYNS";
    /// Array: cookies that came back ([`crate::challenge::spent`]).
    pub const RETURNED_COOKIES: &str = "RETURNED_COOKIES";
    /// Program array: the programs that were on interfaces before. XDP only.
    pub const CHAINED: &str = "CHAINED";
    /// Hash: index of an interface to its place in it. XDP only.
    pub const CHAINED_INTERFACES: &str = "CHAINED_INTERFACES";
    /// One [`crate::instance::Instance`].
    pub const INSTANCE: &str = "INSTANCE";
    /// Ring buffer of [`crate::event::Event`].
    pub const EVENTS: &str = "EVENTS";
    /// aya-log's ring buffer.
    pub const LOG: &str = "AYA_LOGS";
}

/// Names of the values that the daemon sets before loading.
pub mod setting {
    /// `u64`: secret of [`crate::hash`].
    pub const HASH_KEY: &str = "HASH_KEY";
    /// [`crate::address::Address`]: which IPv4 networks are accounted.
    pub const PREFIX_MASK_IPV4: &str = "PREFIX_MASK_IPV4";
    /// [`crate::address::Address`]: which IPv6 networks are accounted.
    pub const PREFIX_MASK_IPV6: &str = "PREFIX_MASK_IPV6";
    /// [`crate::clock::Clock`].
    pub const CLOCK: &str = "CLOCK";
    /// `u64`: jiffies a second.
    pub const TICKS_PER_SECOND: &str = "TICKS_PER_SECOND";
    /// `u32`: the whole allowance of [`crate::admission`].
    pub const WHOLE_ALLOWANCE: &str = "WHOLE_ALLOWANCE";
    /// `u32`: 1 where the kernel can make SYN cookies.
    pub const CAN_MAKE_COOKIES: &str = "CAN_MAKE_COOKIES";
    /// `u32`: blocks of the filter of known sources, a power of two.
    pub const FILTER_BLOCKS: &str = "FILTER_BLOCKS";
    /// `u32`: inode number of the network namespace that is guarded.
    pub const NAMESPACE: &str = "NAMESPACE";
    /// `u32`: 1 where frames that pass are handed on. XDP only.
    pub const CHAINS: &str = "CHAINS";
    /// `u64`: which of the datapaths this is that share maps ([`crate::instance::Instance::generation`]).
    pub const GENERATION: &str = "GENERATION";
    /// [`super::SocketLayout`].
    pub const SOCKET_LAYOUT: &str = "SOCKET_LAYOUT";
    /// aya-log's level; 0 is off.
    pub const LOG_LEVEL: &str = "AYA_LOG_LEVEL";
}

/// Ports in one element of `SYN_BY_PORT` (20 KiB; a per-CPU element may have 32).
pub const PORTS_PER_SLAB: usize = 512;
/// Elements of `SYN_BY_PORT`.
pub const PORT_SLABS: usize = 128;
/// SYNs by destination port.
pub type PortSlab = [PortSyns; PORTS_PER_SLAB];

/// SYNs to one port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PortSyns {
    /// All of them.
    pub syn: u64,
    /// Of these, the ones that began no handshake to be judged: sent again, dropped, or for a port that
    /// is closed for a moment.
    pub not_begun: u64,
    /// Of these, the ones that were dropped by judgement.
    pub restrained: u64,
    /// All that were to be answered with a cookie.
    pub challenged: u64,
    /// Those of this moment whose sources are not proven.
    pub load: CpuLoad,
}

/// Listeners that do not take what comes to any address: so many are known.
pub const MOST_ENDPOINTS: u32 = 4096;

/// Interfaces whose programs may be chained.
pub const MOST_CHAINED: usize = 64;

/// Rules that there may be.
pub const MOST_RULES: u32 = 524_288;

/// What became of the handshakes of one local port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PortHandshakes {
    /// Completed.
    pub completed: u64,
    /// SYN-ACKs sent again.
    pub retried: u64,
    /// Ended by a reset while half open.
    pub reset: u64,
    /// Completed on this host by sources that were not proven.
    pub proved: u64,
    /// Completed on this host by IPv4; what containers complete is not.
    pub here_ipv4: u64,
    /// The same by IPv6.
    pub here_ipv6: u64,
    /// Cookies that came back by IPv4.
    pub returned_ipv4: u64,
    /// The same by IPv6.
    pub returned_ipv6: u64,
}

/// Where the kernel keeps what the tracepoints need, in bytes from the start of each structure; taken
/// from its BTF, since no two kernels agree.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SocketLayout {
    /// `sock_common.skc_family`, 16 bits.
    pub family: u32,
    /// `sock_common.skc_daddr`, 32 bits, big-endian.
    pub remote_ipv4: u32,
    /// `sock_common.skc_v6_daddr`, 128 bits.
    pub remote_ipv6: u32,
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
    /// `sock.sk_rx_dst_ifindex`, 32 bits: the interface that the socket last received by.
    pub receive_interface: u32,
    /// 1 where all of the above are known.
    pub known: u32,
}

impl SocketLayout {
    /// Nothing is known: the tracepoints do nothing.
    pub const UNKNOWN: Self = Self {
        family: 0,
        remote_ipv4: 0,
        remote_ipv6: 0,
        remote_port: 0,
        local_port: 0,
        namespace: 0,
        namespace_inode: 0,
        protocol: 0,
        receive_interface: 0,
        known: 0,
    };
}

//! Names and sizes that the daemon and the datapath must agree on. The name of a map is defined here and at its
//! definition in the datapath (a symbol cannot be computed); loading fails immediately if the two differ.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::challenge::load::CpuLoad;

/// Names of programs.
pub mod program {
    /// The XDP program.
    pub const GUARD: &str = "tcpguard";
    /// Attached to tracepoint `inet_sock_set_state`.
    pub const HANDSHAKE_COMPLETED: &str = "handshake_completed";
    /// Attached to tracepoint `tcp_retransmit_synack`.
    pub const SYN_ACK_RETRIED: &str = "syn_ack_retried";
    /// Never attached: [`GUARD`] tail-calls it to answer a SYN.
    pub const ANSWER_SYN: &str = "answer_syn";
    /// Never attached: reports datapath time to the daemon.
    pub const CLOCK: &str = "clock";
    /// Never attached: blocks a source temporarily ([`crate::event::BlockOrder`]).
    pub const BLOCK_SOURCE: &str = "block_source";
    /// Never attached: prepares a listener for cookies ([`crate::challenge::PrimeOrder`]).
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
    /// Hash: indices of the interfaces whose handshakes are counted.
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
    /// Array by port: the number of changes to its listeners.
    pub const LISTENER_CHANGES: &str = "LISTENER_CHANGES";
    /// Array by port: [`crate::challenge::PortChallenge`].
    pub const CHALLENGES: &str = "CHALLENGES";
    /// Hash: [`crate::challenge::Endpoint`]s that have a listener.
    pub const ENDPOINTS: &str = "ENDPOINTS";
    /// Array by port: [`crate::challenge::load::PortLoad`].
    pub const PORT_LOADS: &str = "PORT_LOADS";
    /// Array: recently begun handshakes ([`crate::handshake`]).
    pub const HANDSHAKES: &str = "HANDSHAKES";
    /// Array: recent first SYNs ([`crate::challenge::first_syn`]).
    pub const FIRST_SYNS: &str = "FIRST_SYNS";
    /// Array: returned cookies ([`crate::challenge::spent`]).
    pub const RETURNED_COOKIES: &str = "RETURNED_COOKIES";
    /// Program array: the programs that were attached to interfaces before. XDP only.
    pub const CHAINED: &str = "CHAINED";
    /// Hash: index of an interface to the place of its program in [`CHAINED`]. XDP only.
    pub const CHAINED_INTERFACES: &str = "CHAINED_INTERFACES";
    /// One [`crate::instance::Instance`].
    pub const INSTANCE: &str = "INSTANCE";
    /// Ring buffer of [`crate::event::Event`].
    pub const EVENTS: &str = "EVENTS";
    /// aya-log's ring buffer.
    pub const LOG: &str = "AYA_LOGS";
}

/// Names of the variables that the daemon sets before loading.
pub mod setting {
    /// `u64`: key of [`crate::hash`].
    pub const HASH_KEY: &str = "HASH_KEY";
    /// [`crate::address::Address`]: the mask of the prefix under which an IPv4 source is accounted.
    pub const PREFIX_MASK_IPV4: &str = "PREFIX_MASK_IPV4";
    /// [`crate::address::Address`]: the mask of the prefix under which an IPv6 source is accounted.
    pub const PREFIX_MASK_IPV6: &str = "PREFIX_MASK_IPV6";
    /// [`crate::clock::Clock`].
    pub const CLOCK: &str = "CLOCK";
    /// `u64`: jiffies per second.
    pub const TICKS_PER_SECOND: &str = "TICKS_PER_SECOND";
    /// `u32`: the whole allowance of [`crate::admission`].
    pub const WHOLE_ALLOWANCE: &str = "WHOLE_ALLOWANCE";
    /// `u32`: 1 if the kernel can make SYN cookies.
    pub const CAN_MAKE_COOKIES: &str = "CAN_MAKE_COOKIES";
    /// `u32`: blocks of the filter of known sources, a power of two.
    pub const FILTER_BLOCKS: &str = "FILTER_BLOCKS";
    /// `u32`: inode number of the guarded network namespace.
    pub const NAMESPACE: &str = "NAMESPACE";
    /// `u32`: 1 if frames that pass are passed on to a chained program. XDP only.
    pub const CHAINS: &str = "CHAINS";
    /// `u64`: the generation of this datapath, among those that share maps
    /// ([`crate::instance::Instance::generation`]).
    pub const GENERATION: &str = "GENERATION";
    /// [`super::SocketLayout`].
    pub const SOCKET_LAYOUT: &str = "SOCKET_LAYOUT";
    /// aya-log's level; 0 is off.
    pub const LOG_LEVEL: &str = "AYA_LOG_LEVEL";
}

/// Ports in one element of `SYN_BY_PORT` (20 KiB; the maximum for an element of a per-CPU map is 32 KiB).
pub const PORTS_PER_SLAB: usize = 512;
/// The number of elements of `SYN_BY_PORT`.
pub const PORT_SLABS: usize = 128;
/// SYNs by destination port: one element of `SYN_BY_PORT`.
pub type PortSlab = [PortSyns; PORTS_PER_SLAB];

/// SYNs to one port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PortSyns {
    /// All SYNs.
    pub syn: u64,
    /// The subset of `syn` that began no handshake to be judged: retransmitted, dropped, forwarded, or for a
    /// port that is temporarily closed.
    pub not_begun: u64,
    /// The subset of `not_begun` that was dropped by judgement ([`crate::drops::DropReason::is_of_attack`]).
    pub restrained: u64,
    /// All SYNs that were to be answered with a cookie.
    pub challenged: u64,
    /// SYNs of unproven sources in the current slot.
    pub load: CpuLoad,
}

/// The maximum number of [`crate::challenge::Endpoint`]s.
pub const MOST_ENDPOINTS: u32 = 4096;

/// The maximum number of interfaces with a chained program.
pub const MOST_CHAINED: usize = 64;

/// The maximum number of rules.
pub const MOST_RULES: u32 = 524_288;

/// The outcome of the handshakes of one local port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PortHandshakes {
    /// Handshakes completed.
    pub completed: u64,
    /// SYN-ACKs retransmitted.
    pub retried: u64,
    /// Handshakes ended by a reset while half open.
    pub reset: u64,
    /// Handshakes completed on this host by sources that were not proven before.
    pub proved: u64,
    /// Handshakes completed on this host over IPv4, without those completed by containers.
    pub here_ipv4: u64,
    /// Handshakes completed on this host over IPv6, without those completed by containers.
    pub here_ipv6: u64,
    /// Cookies returned over IPv4.
    pub returned_ipv4: u64,
    /// Cookies returned over IPv6.
    pub returned_ipv6: u64,
}

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
        remote_port: 0,
        local_port: 0,
        namespace: 0,
        namespace_inode: 0,
        protocol: 0,
        receive_interface: 0,
        known: 0,
    };
}

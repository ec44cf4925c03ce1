//! Names and sizes that the daemon and the datapath must agree on. The name of a map is defined here and at its
//! definition in the datapath (a symbol cannot be computed); loading fails immediately if the two differ.

/// Names of programs.
pub mod program {
    /// The XDP program.
    pub const PACKET: &str = "tcpguard";
    /// Attached to tracepoint `inet_sock_set_state`.
    pub const HANDSHAKE_COMPLETED: &str = "handshake_completed";
    /// Attached to tracepoint `tcp_retransmit_synack`.
    pub const SYN_ACK_RETRIED: &str = "syn_ack_retried";
    /// Never attached: [`PACKET`] tail-calls it to answer a SYN.
    pub const ANSWER_SYN: &str = "answer_syn";
    /// Never attached: [`PACKET`] tail-calls it to answer a SYN so that its client resets it.
    pub const PROMPT_RESET: &str = "prompt_reset";
    /// Never attached: [`PACKET`] tail-calls it to judge a SYN whose handshake completes behind this host.
    pub const JUDGE_BEHIND: &str = "judge_behind";
    /// Attached to tracepoint `net_dev_start_xmit` while handshakes that complete behind this host are observed.
    pub const SEGMENT_SENT: &str = "segment_sent";
    /// Never attached: reports datapath time to the daemon.
    pub const CLOCK: &str = "clock";
    /// Never attached: blocks a source temporarily ([`crate::abi::request::BlockRequest`]).
    pub const BLOCK_SOURCE: &str = "block_source";
    /// Never attached: prepares a listener for cookies ([`crate::abi::request::PrimeRequest`]).
    pub const PRIME_LISTENER: &str = "prime_listener";
}

/// Places in the program array [`map::ANSWER`]: the programs that continue with a SYN.
pub mod answer {
    /// Of [`super::program::ANSWER_SYN`].
    pub const WITH_COOKIE: u32 = 0;
    /// Of [`super::program::PROMPT_RESET`].
    pub const FOR_RESET: u32 = 1;
    /// Of [`super::program::JUDGE_BEHIND`].
    pub const BEHIND: u32 = 2;
    /// The number of places.
    pub const PLACES: usize = 3;
}

/// Names of maps.
pub mod map {
    /// Per CPU: [`crate::abi::counters::CpuCounts`].
    pub const COUNTS: &str = "COUNTS";
    /// Array of [`crate::tracking::source_table::Place`].
    pub const SOURCES: &str = "SOURCES";
    /// By CPU ([`super::by_cpu`]): [`crate::tracking::sketch::Slab`].
    pub const SKETCH: &str = "SKETCH";
    /// Per CPU: [`crate::tracking::admission::Admission`].
    pub const ADMISSION: &str = "ADMISSION";
    /// One [`crate::tracking::admission::Allowance`].
    pub const ALLOWANCE: &str = "ALLOWANCE";
    /// Array of [`crate::tracking::source_table::Slab`]: the tags of the places of [`SOURCES`].
    pub const SOURCE_TAGS: &str = "SOURCE_TAGS";
    /// One `u64`: how many places of [`SOURCES`] hold an entry.
    pub const SOURCES_HELD: &str = "SOURCES_HELD";
    /// By CPU ([`super::by_cpu`]): [`crate::tracking::prefix::Slab`].
    pub const PREFIXES: &str = "PREFIXES";
    /// Per CPU: [`crate::tracking::distinct::Registers`].
    pub const DISTINCT: &str = "DISTINCT";
    /// Per CPU: [`super::syn_headers::SynHeaders`].
    pub const SYN_HEADERS: &str = "SYN_HEADERS";
    /// Per CPU: [`super::signature::CompletedShapes`].
    pub const COMPLETED_SHAPES: &str = "COMPLETED_SHAPES";
    /// Array: handshakes with a signature that were let through ([`super::signature`]).
    pub const TRIED: &str = "TRIED";
    /// By CPU ([`super::by_cpu`]): [`super::port::PortSlab`], SYNs by place ([`super::place`]).
    pub const SYN_BY_PORT: &str = "SYN_BY_PORT";
    /// Array of [`super::port::HandshakeSlab`], by place ([`super::place`]).
    pub const HANDSHAKES_BY_PORT: &str = "HANDSHAKES_BY_PORT";
    /// Array of [`super::port::PortMark`], one for each slab of ports.
    pub const PORT_MARKS: &str = "PORT_MARKS";
    /// Hash: indices of the interfaces whose handshakes are counted.
    pub const GUARDED_INTERFACES: &str = "GUARDED_INTERFACES";
    /// One [`crate::abi::lease::Lease`]: the section of the programs' variables, which holds nothing else.
    pub const CONTROL: &str = ".bss";
    /// LPM trie: [`crate::address::Address`] to [`crate::abi::rule::Rule`].
    pub const RULES: &str = "RULES";
    /// By CPU ([`super::by_cpu`]): [`crate::abi::rule::CacheSlab`].
    pub const RULE_CACHE: &str = "RULE_CACHE";
    /// Array: /24s with rules ([`crate::abi::outline`]).
    pub const LISTED_IPV4: &str = "LISTED_IPV4";
    /// Array: denied /24s ([`crate::abi::outline`]).
    pub const DENIED_IPV4: &str = "DENIED_IPV4";
    /// Array: a filter of IPv6 networks with rules ([`crate::abi::outline`]).
    pub const LISTED_IPV6: &str = "LISTED_IPV6";
    /// Array of [`crate::abi::local_addresses::Set`].
    pub const LOCAL_ADDRESSES: &str = "LOCAL_ADDRESSES";
    /// LPM trie: networks of which the host accepts every address.
    pub const LOCAL_NETWORKS: &str = "LOCAL_NETWORKS";
    /// Array by port: [`crate::abi::listening`].
    pub const LISTENING: &str = "LISTENING";
    /// Array by port: [`crate::abi::lease::payload_policy`].
    pub const PAYLOAD_POLICY: &str = "PAYLOAD_POLICY";
    /// Program array: the programs that answer SYNs, at the places in [`super::answer`].
    pub const ANSWER: &str = "ANSWER";
    /// Array by port: the number of changes to its listeners.
    pub const LISTENER_CHANGES: &str = "LISTENER_CHANGES";
    /// Array by place: [`crate::abi::port::PortChallenge`].
    pub const CHALLENGES: &str = "CHALLENGES";
    /// Hash: [`crate::abi::port::Endpoint`]s that have a listener.
    pub const ENDPOINTS: &str = "ENDPOINTS";
    /// Array by place: [`crate::challenge::port_load::PortLoad`].
    pub const PORT_LOADS: &str = "PORT_LOADS";
    /// Array: recently begun handshakes ([`crate::tracking::handshake`]).
    pub const HANDSHAKES: &str = "HANDSHAKES";
    /// LPM trie: protected networks, with the index of their section of the configuration.
    pub const PROTECTED_NETWORKS: &str = "PROTECTED_NETWORKS";
    /// Hash: [`super::place::ProtectedPort`] to its place.
    pub const PROTECTED_PORTS: &str = "PROTECTED_PORTS";
    /// Per CPU: the place of the SYN that [`super::program::JUDGE_BEHIND`] continues with.
    pub const CONTINUED: &str = "CONTINUED";
    /// Array: SYN-ACKs sent by servers behind this host ([`crate::tracking::reply`]).
    pub const REPLIES: &str = "REPLIES";
    /// Array: recent first SYNs ([`crate::challenge::first_syn`]).
    pub const FIRST_SYNS: &str = "FIRST_SYNS";
    /// Array: returned cookies ([`crate::challenge::returned_cookie`]).
    pub const RETURNED_COOKIES: &str = "RETURNED_COOKIES";
    /// Array: flows that a reset released ([`crate::challenge::safe_reset`]).
    pub const RELEASED_FLOWS: &str = "RELEASED_FLOWS";
    /// Program array: the programs that were attached to interfaces before. XDP only.
    pub const CHAINED: &str = "CHAINED";
    /// Hash: index of an interface to the place of its program in [`CHAINED`]. XDP only.
    pub const CHAINED_INTERFACES: &str = "CHAINED_INTERFACES";
    /// One [`crate::abi::takeover::Instance`].
    pub const INSTANCE: &str = "INSTANCE";
    /// Ring buffer of [`crate::abi::event::Event`].
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
    /// `u32`: the whole allowance of [`crate::tracking::admission`].
    pub const WHOLE_ALLOWANCE: &str = "WHOLE_ALLOWANCE";
    /// `u32`: 1 if the kernel can make SYN cookies.
    pub const CAN_MAKE_COOKIES: &str = "CAN_MAKE_COOKIES";
    /// `u32`: slabs of the source table.
    pub const SOURCE_SLABS: &str = "SOURCE_SLABS";
    /// `u32`: how many entries the source table may hold.
    pub const MAX_SOURCES: &str = "MAX_SOURCES";
    /// `u32`: how many CPUs have a row of their own in the arrays by CPU ([`super::by_cpu`]).
    pub const CPU_ROWS: &str = "CPU_ROWS";
    /// `u32`: inode number of the guarded network namespace.
    pub const NAMESPACE: &str = "NAMESPACE";
    /// `u32`: 1 if frames that pass are passed on to a chained program. XDP only.
    pub const CHAINS: &str = "CHAINS";
    /// `u64`: the generation of this datapath, among those that share maps
    /// ([`crate::abi::takeover::Instance::generation`]).
    pub const GENERATION: &str = "GENERATION";
    /// [`super::socket_layout::SocketLayout`].
    pub const SOCKET_LAYOUT: &str = "SOCKET_LAYOUT";
    /// [`super::packet_layout::PacketLayout`].
    pub const PACKET_LAYOUT: &str = "PACKET_LAYOUT";
    /// aya-log's level; 0 is off.
    pub const LOG_LEVEL: &str = "AYA_LOG_LEVEL";
}

/// The maximum number of interfaces with a chained program.
pub const MAX_CHAINED: usize = 64;

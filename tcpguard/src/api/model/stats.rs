//! The response of `GET /stats`.

use std::collections::BTreeMap;

use bytesize::ByteSize;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tcpguard_common::abi::counters::Counter;
use utoipa::ToSchema;

use super::{Measures, Prefix, Source};

/// Response of `GET /stats`: one snapshot.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Stats {
    /// Version of tcpguard.
    pub version: String,
    /// Seconds since the daemon started.
    pub uptime_seconds: u64,
    /// When the snapshot was taken.
    pub time: Timestamp,
    /// State of the host: `calm`, `attack` or `recovering`.
    pub state: String,
    /// When the present state began.
    pub state_since: Timestamp,
    /// The attack in progress; null if there is none.
    pub attack: Option<Attack>,
    /// Protection level: 0 watch only, 1 kernel settings, 2 kernel settings and XDP drops.
    pub syn_attack_protect: u8,
    /// Services: ports with thresholds of their own.
    pub services: Vec<Service>,
    /// Networks that this host protects as a gateway.
    #[serde(default)]
    pub protected: Vec<Protected>,
    /// Guarded interfaces.
    pub interfaces: Vec<Interface>,
    /// Counters since the datapath was attached. They continue across takeovers.
    pub totals: Totals,
    /// Frames dropped, by drop reason.
    pub drops: BTreeMap<String, u64>,
    /// Frames passed that would be dropped if dropping were enabled, by drop reason.
    pub would_drop: BTreeMap<String, u64>,
    /// Frames without a readable TCP segment, by reason; all were passed.
    pub unread: BTreeMap<String, u64>,
    /// Rates over the last second.
    pub rates: Rates,
    /// Half-open handshakes.
    pub half_open: HalfOpen,
    /// Connection requests refused by the kernel for lack of resources since the daemon started.
    pub refused: u64,
    /// Thresholds of the host.
    pub thresholds: Thresholds,
    /// Ports with a listener, and the busiest ports without one.
    pub ports: Vec<Port>,
    /// The twenty sources with the most SYNs.
    pub sources: Vec<Source>,
    /// The twenty prefixes with the most SYNs.
    pub prefixes: Vec<Prefix>,
    /// Usage of the source table.
    pub tracking: Tracking,
    /// Kernel features that tcpguard uses, by name.
    pub features: BTreeMap<String, Feature>,
    /// TCP counters of the kernel since the network namespace was created.
    pub tcp_ext: BTreeMap<String, u64>,
    /// The measures in force.
    pub measures: Measures,
    /// Memory of the datapath's maps.
    #[serde(default)]
    pub memory: Memory,
    /// Resources used by tcpguard.
    pub cost: Cost,
}

/// Memory of the datapath's maps. Entries of lists are not included.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Memory {
    /// Maximum (`limits.memory`), in bytes.
    pub limit_bytes: u64,
    /// Memory of all maps, in bytes.
    pub bytes: u64,
    /// Memory of each map, the largest first.
    pub items: Vec<MemoryItem>,
}

impl Memory {
    /// Returns the largest items in words.
    pub fn largest(&self, count: usize) -> String {
        let items = self.items.iter().take(count);
        let items: Vec<String> =
            items.map(|item| format!("{} {}", item.item, ByteSize::b(item.bytes).display().iec())).collect();
        items.join(", ")
    }
}

/// Memory of one map.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct MemoryItem {
    /// Name of the map in lower case, such as `sources` or `syn_by_port`.
    pub item: String,
    /// Memory in bytes.
    pub bytes: u64,
}

/// CPU time of the daemon by what it was spent on. The start, list files and notifications are in none of them.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct CostParts {
    /// Judging, acting and publishing, in seconds.
    pub tick_seconds: f64,
    /// Reading the kernel's tables of half-open handshakes and of listeners, in seconds.
    pub rows_seconds: f64,
    /// Reading the datapath's maps, in seconds.
    pub maps_seconds: f64,
    /// Answering requests, in seconds.
    pub http_seconds: f64,
}

/// Resources used by tcpguard.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Cost {
    /// CPU time used by the daemon, in seconds.
    pub cpu_seconds: f64,
    /// CPU time by what it was spent on.
    #[serde(default)]
    pub parts: CostParts,
    /// Resident memory of the daemon, in bytes.
    pub resident_bytes: u64,
    /// Ticks completed since the daemon started.
    pub ticks: u64,
    /// Duration of the last tick, in seconds.
    pub last_tick_seconds: f64,
    /// Longest delay of a tick within the last minute, in seconds.
    pub longest_tick_delay_seconds: f64,
    /// Run time of the BPF programs; null unless the kernel measures it (`kernel.bpf_stats_enabled`).
    pub programs: Option<Vec<Program>>,
}

/// Run time of a BPF program.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Program {
    /// Name of the program.
    pub name: String,
    /// Number of runs.
    pub runs: u64,
    /// Total run time, in seconds.
    pub run_seconds: f64,
}

/// A service: ports with thresholds of their own.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Service {
    /// Port numbers.
    pub ports: Vec<u16>,
    /// `calm`, `attack` or `recovering`.
    pub state: String,
    /// Half-open handshakes on its ports.
    pub half_open: HalfOpen,
    /// The service is under attack above this number of half-open handshakes.
    pub max_half_open: u32,
}

/// Networks that this host protects as a gateway: a `[[protect]]` section of the configuration.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Protected {
    /// Name of the section.
    pub name: String,
    /// Networks of the servers.
    pub networks: Vec<String>,
    /// `calm`, `attack` or `recovering`.
    pub state: String,
    /// Half-open handshakes, as counted by the datapath from what passes.
    pub half_open: u64,
    /// The networks are under attack above this number of half-open handshakes.
    pub max_half_open: u32,
    /// Way of the servers' SYN-ACKs: `here` (through this host), `elsewhere` (asymmetric routing: nobody is blocked), or
    /// `unknown` as long as too few handshakes began.
    pub return_path: String,
    /// How SYNs are challenged: `reset` or `retransmit`; absent while none are.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub method: Option<String>,
    /// Ports of the servers.
    pub ports: Vec<ProtectedPort>,
}

impl Protected {
    /// Returns whether the servers' SYN-ACKs take another way than through this host.
    pub fn is_answered_elsewhere(&self) -> bool {
        self.return_path == "elsewhere"
    }
}

/// A port of protected networks.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ProtectedPort {
    /// Port number.
    pub port: u16,
    /// SYNs to the port.
    pub syn: u64,
    /// Half-open handshakes.
    pub half_open: u64,
    /// Handshakes completed.
    pub completed: u64,
    /// SYN-ACKs retransmitted by the servers.
    pub retried: u64,
    /// Whether SYNs to it are challenged.
    pub challenged: bool,
}

/// An attack in progress.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Attack {
    /// When the attack began.
    pub since: Timestamp,
    /// `spoofed`, `concentrated`, `prefix`, `scan`, `stray` or `mixed`.
    pub kind: String,
    /// The values that exceeded a threshold or decided the kind, one sentence each.
    pub evidence: Vec<String>,
}

/// A guarded interface.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Interface {
    /// Name of the interface.
    pub name: String,
    /// `native`, `generic`, `tc` (traffic control) or `detached`.
    pub xdp_mode: String,
    /// Why the mode is not native, why nothing is attached, or which program packets are passed on to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
}

macro_rules! totals {
    ($($counter:ident $field:ident $help:literal, $metric:ident;)*) => {
        /// Counters since the datapath was attached. They continue across takeovers.
        #[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
        pub struct Totals {
            $(#[doc = concat!($help, ".")] pub $field: u64,)*
            /// SYNs, including retransmits.
            pub syn: u64,
            /// Segments with a flag combination that no TCP implementation sends.
            pub bad_flags: u64,
            /// Frames passed to the kernel: `packets` - `dropped` - `challenged`.
            pub passed: u64,
            /// Frames dropped.
            pub dropped: u64,
            /// SYNs answered by the datapath: with a cookie, or so that their client resets them.
            pub challenged: u64,
        }

        impl From<&crate::datapath::maps::Totals> for Totals {
            fn from(totals: &crate::datapath::maps::Totals) -> Self {
                let (dropped, challenged) = (totals.dropped(), totals.challenged());
                Self {
                    $($field: totals.get(Counter::$counter),)*
                    syn: totals.syn(),
                    bad_flags: totals.get(Counter::BadFlags) + totals.get(Counter::DropBadFlags),
                    passed: totals.get(Counter::Packets).saturating_sub(dropped + challenged),
                    dropped,
                    challenged,
                }
            }
        }
    };
}
tcpguard_common::for_each_total!(totals);

/// Rates over the last second.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Rates {
    /// Frames received per second.
    pub packets_per_second: f64,
    /// SYNs per second, including retransmits.
    pub syn_per_second: f64,
    /// Handshakes completed per second.
    pub completed_per_second: f64,
    /// SYN-ACKs retransmitted per second.
    pub retried_per_second: f64,
    /// Resets per second.
    pub rst_per_second: f64,
    /// Frames dropped per second.
    pub dropped_per_second: f64,
    /// SYNs answered by the datapath per second: with a cookie, or so that their client resets them.
    pub challenged_per_second: f64,
    /// Distinct sources of SYNs per second, estimated to within a few percent.
    pub distinct_sources_per_second: f64,
}

/// Half-open handshakes.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HalfOpen {
    /// Half-open handshakes in the kernel (SYN_RECV).
    pub kernel: u64,
    /// Half-open handshakes in the kernel whose SYN-ACK was retransmitted.
    pub kernel_retried: u64,
    /// Half-open handshakes as counted by the datapath from SYNs, completions and resets.
    pub datapath: u64,
}

/// Thresholds of the host. It is under attack when one is exceeded.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Thresholds {
    /// Half-open handshakes.
    pub max_half_open: u32,
    /// Half-open handshakes in the kernel whose SYN-ACK was retransmitted.
    pub max_half_open_retried: u32,
    /// Refused connection requests per second.
    pub max_ports_exhausted: u32,
    /// Segments per second that belong to no connection.
    #[serde(default)]
    pub max_stray: u32,
}

/// A port and its counters.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Port {
    /// Port number.
    pub port: u16,
    /// SYNs to the port.
    pub syn: u64,
    /// Half-open handshakes in the kernel (SYN_RECV).
    pub half_open: u64,
    /// SYN-ACKs retransmitted by the kernel.
    pub retried: u64,
    /// SYNs selected to be answered with a cookie.
    #[serde(default)]
    pub challenged: u64,
    /// Handshakes completed.
    pub completed: u64,
    /// Whether it has no listener and is redirected, to a container or another host.
    #[serde(default)]
    pub redirected: bool,
    /// Sum of the backlogs of its listeners; 0 if there is none.
    pub backlog: u64,
    /// Completed connections that have not been accepted yet.
    pub accept_queue: u64,
    /// Whether the application accepts connections too slowly.
    pub slow_application: bool,
}

/// Usage of the source table.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Tracking {
    /// Entries in use.
    pub sources: u64,
    /// Capacity, in entries.
    pub max_sources: u32,
    /// Sources admitted since the datapath was attached.
    pub admitted: u64,
    /// SYNs whose source was not admitted because of a flood of new sources.
    pub syn_untracked: u64,
    /// Handshakes completed by sources that had not been admitted when their SYN arrived; they are admitted then.
    pub completed_untracked: u64,
    /// Events of the datapath lost because the ring buffer was full.
    pub events_lost: u64,
}

/// A kernel feature that may be missing.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Feature {
    /// Whether the feature is available.
    pub available: bool,
    /// Why the feature is not available.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
}

//! `GET /stats`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Measures, Prefix, Source};

/// `GET /stats`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Stats {
    /// tcpguard's version.
    pub version: String,
    /// Seconds since the daemon started.
    pub uptime_seconds: u64,
    /// When the snapshot was taken.
    pub time: Timestamp,
    /// calm, attack or recovering.
    pub state: String,
    /// Since when it is that.
    pub state_since: Timestamp,
    /// The attack that is going on.
    pub attack: Option<Attack>,
    /// What may be done: 0 nothing, 1 kernel measures, 2 these and XDP.
    pub syn_attack_protect: u8,
    /// Ports with thresholds of their own.
    pub services: Vec<Service>,
    /// The guarded interfaces.
    pub interfaces: Vec<Interface>,
    /// Counters since the datapath was attached: they go on when another daemon takes over.
    pub totals: Totals,
    /// Frames dropped, by reason.
    pub drops: BTreeMap<String, u64>,
    /// Frames that passed, and would have been dropped if anything were, by reason.
    pub would_drop: BTreeMap<String, u64>,
    /// Frames that hold no TCP segment that could be read, by reason; all of these passed.
    pub unread: BTreeMap<String, u64>,
    /// Rates over the last second.
    pub rates: Rates,
    /// Half-open handshakes.
    pub half_open: HalfOpen,
    /// Connection requests that the kernel refused for want of resources since the daemon started.
    pub refused: u64,
    /// The thresholds in force.
    pub thresholds: Thresholds,
    /// Ports with a listener, and the busiest of those without.
    pub ports: Vec<Port>,
    /// The twenty sources with most SYNs.
    pub sources: Vec<Source>,
    /// The twenty networks with most SYNs.
    pub prefixes: Vec<Prefix>,
    /// How the source table stands.
    pub tracking: Tracking,
    /// What this kernel allows.
    pub features: BTreeMap<String, Feature>,
    /// The kernel's TCP counters since its network namespace began.
    pub tcp_ext: BTreeMap<String, u64>,
    /// What is done at this moment.
    pub measures: Measures,
    /// What tcpguard itself costs.
    pub cost: Cost,
}

/// What tcpguard itself costs.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Cost {
    /// Processor time that the daemon has used.
    pub cpu_seconds: f64,
    /// Memory that the daemon has in use.
    pub resident_bytes: u64,
    /// Snapshots taken.
    pub ticks: u64,
    /// How long the last one took, with all that followed from it.
    pub last_tick_seconds: f64,
    /// By how much one came too late at most, within the last minute.
    pub longest_tick_delay_seconds: f64,
    /// What the BPF programs cost; null unless the kernel measures it (`kernel.bpf_stats_enabled`).
    pub programs: Option<Vec<Program>>,
}

/// What a BPF program costs.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Program {
    /// Its name.
    pub name: String,
    /// How often it ran.
    pub runs: u64,
    /// How long all runs took together.
    pub run_seconds: f64,
}

/// Ports with thresholds of their own.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Service {
    /// The ports.
    pub ports: Vec<u16>,
    /// calm, attack or recovering.
    pub state: String,
    /// Half-open handshakes.
    pub half_open: HalfOpen,
    /// Their threshold.
    pub max_half_open: u32,
}

/// An attack.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Attack {
    /// Since when.
    pub since: Timestamp,
    /// spoofed, concentrated, prefix, scan or mixed.
    pub kind: String,
    /// What shows it.
    pub evidence: Vec<String>,
}

/// A guarded interface.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// native, generic, tc (traffic control) or detached.
    pub xdp_mode: String,
    /// What is to be said of it: why it is not native, or not attached, or whom it hands on to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
}

/// Counters since the datapath was attached: they go on when another daemon takes over.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Totals {
    /// Frames seen: `passed` + `dropped` + `challenged`.
    pub packets: u64,
    /// SYNs, those sent again among them.
    pub syn: u64,
    /// SYN-ACKs received.
    pub syn_ack: u64,
    /// Segments with ACK, and neither SYN nor RST.
    pub ack: u64,
    /// Resets.
    pub rst: u64,
    /// Segments with flags that no TCP sends together.
    pub bad_flags: u64,
    /// Frames passed to the kernel.
    pub passed: u64,
    /// Frames dropped.
    pub dropped: u64,
    /// SYNs answered with a challenge.
    pub challenged: u64,
    /// Handshakes completed.
    pub completed: u64,
    /// SYN-ACKs that the kernel sent again.
    pub retried: u64,
    /// SYNs recognised as sent again.
    pub syn_repeated: u64,
    /// SYNs that carried data.
    pub syn_with_payload: u64,
    /// Half-open handshakes ended by a reset.
    pub handshakes_reset: u64,
    /// SYNs for other hosts, which are not judged here.
    pub syn_forwarded: u64,
    /// SYNs to ports whose listener closed a while ago, which are not judged.
    pub syn_closed: u64,
}

/// Rates over the last second.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Rates {
    /// Frames.
    pub packets_per_second: f64,
    /// SYNs.
    pub syn_per_second: f64,
    /// Handshakes completed.
    pub completed_per_second: f64,
    /// SYN-ACKs sent again.
    pub retried_per_second: f64,
    /// Resets.
    pub rst_per_second: f64,
    /// Frames dropped.
    pub dropped_per_second: f64,
    /// SYNs answered with a cookie.
    pub challenged_per_second: f64,
    /// Different sources of SYNs, estimated to within a few percent.
    pub distinct_sources_per_second: f64,
}

/// Half-open handshakes.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HalfOpen {
    /// In state SYN_RECV in the kernel.
    pub kernel: u64,
    /// Of these, the ones whose SYN-ACK was sent again.
    pub kernel_retried: u64,
    /// By the datapath's count of SYNs, completions and resets.
    pub datapath: u64,
}

/// The thresholds in force.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Thresholds {
    /// Half-open handshakes.
    pub max_half_open: u32,
    /// Of these, the ones whose SYN-ACK was sent again.
    pub max_half_open_retried: u32,
    /// Refused connection requests a second.
    pub max_ports_exhausted: u32,
}

/// A port.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Port {
    /// Its number.
    pub port: u16,
    /// SYNs.
    pub syn: u64,
    /// Half-open handshakes in the kernel.
    pub half_open: u64,
    /// SYN-ACKs sent again.
    pub retried: u64,
    /// SYNs answered with a cookie.
    #[serde(default)]
    pub challenged: u64,
    /// Handshakes completed.
    pub completed: u64,
    /// What its listeners can hold; 0 where there is none.
    pub backlog: u64,
    /// Completed connections that wait to be accepted.
    pub accept_queue: u64,
    /// Its application does not accept as fast as connections are made.
    pub slow_application: bool,
}

/// How the source table stands.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Tracking {
    /// Sources that have an entry.
    pub sources: u64,
    /// Entries the table has room for.
    pub max_sources: u32,
    /// Entries given since the datapath was attached.
    pub admitted: u64,
    /// SYNs whose source got no entry, because of a flood of new ones.
    pub syn_untracked: u64,
    /// Handshakes that completed although their SYN had got its source no entry; they got it one.
    pub completed_untracked: u64,
    /// Events that were lost because there were too many at once.
    pub events_lost: u64,
}

/// Something the kernel may lack.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Feature {
    /// Whether it is there.
    pub available: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
}

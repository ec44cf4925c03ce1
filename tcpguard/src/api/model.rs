//! The JSON of every answer. Field names are a contract.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{events::Event, lists::ListName};

/// Why a request has no answer.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// One sentence.
    pub error: String,
}

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
    /// Counters since the daemon started.
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

/// `GET /history`: a sample a second, of the last fifteen minutes; each list has one value for each.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct HistoryReport {
    /// When each second ended; the oldest first.
    pub time: Vec<Timestamp>,
    /// calm, attack or recovering.
    pub state: Vec<String>,
    /// SYNs.
    pub syn_per_second: Vec<f64>,
    /// Handshakes completed.
    pub completed_per_second: Vec<f64>,
    /// Frames dropped.
    pub dropped_per_second: Vec<f64>,
    /// SYNs answered with a cookie.
    pub challenged_per_second: Vec<f64>,
    /// Different sources of SYNs, estimated.
    pub distinct_sources_per_second: Vec<f64>,
    /// In state SYN_RECV in the kernel.
    pub half_open_kernel: Vec<u64>,
    /// Of these, the ones whose SYN-ACK was sent again.
    pub half_open_kernel_retried: Vec<u64>,
    /// By the datapath's count.
    pub half_open_datapath: Vec<u64>,
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

/// What is done at this moment.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Measures {
    /// Kernel settings that are changed for as long as the attack lasts.
    pub kernel_settings: Vec<Setting>,
    /// Sources and networks that are blocked by judgement; `/lists` names them.
    pub blocks: u64,
    /// What would make backlogs large enough.
    pub advice: Vec<String>,
    /// How SYNs of unproven sources are challenged.
    #[serde(default)]
    pub challenge: Challenge,
}

/// How SYNs of unproven sources are challenged.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Challenge {
    /// Ports that are challenged now.
    pub ports: Vec<ChallengedPort>,
    /// Ports that should be, and are not.
    pub left_alone: Vec<PortLeftAlone>,
    /// Why no cookies can be sent; null where they can.
    pub no_cookies: Option<String>,
    /// Seconds for which cookies that were sent are still good: kernel settings stay until then. Null for none.
    pub cookies_good_for_seconds: Option<u64>,
    /// Cookies that came back and were valid.
    pub cookies_returned: u64,
    /// SYNs that were to be answered, and could not be: they passed.
    pub failed: u64,
}

/// A port that is challenged.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ChallengedPort {
    /// Which.
    pub port: u16,
    /// cookie or retransmit.
    pub method: String,
    /// For how long it has been.
    pub seconds: u64,
    /// Segments that belong to no connection are dropped there.
    pub guarded: bool,
}

/// A port that should be challenged, and is not.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PortLeftAlone {
    /// Which.
    pub port: u16,
    /// Why.
    pub reason: String,
}

/// A kernel setting.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Setting {
    /// Its name.
    pub name: String,
    /// What it is now.
    pub value: String,
    /// What it was, and will be.
    pub original: String,
}

/// `GET /lists`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ListReport {
    /// Who is always let in.
    pub allow: Vec<ListEntry>,
    /// Who is never, unless allowed.
    pub deny: Vec<ListEntry>,
    /// Who is blocked by judgement; those that are soonest over first.
    pub blocks: Vec<BlockEntry>,
}

/// One entry of a list.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ListEntry {
    /// An address, or a network in CIDR form.
    pub network: String,
    /// allow or deny.
    pub list: ListName,
    /// configuration, file PATH, manual or ssh.
    pub origin: String,
    /// Why it is there.
    pub reason: Option<String>,
    /// Until when.
    pub expires: Option<Timestamp>,
}

/// A block by judgement.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct BlockEntry {
    /// An address, or a network in CIDR form.
    pub network: String,
    /// Until when.
    pub expires: Timestamp,
    /// For which time.
    pub times: u32,
}

/// The answer to a `DELETE`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Removed {
    /// What was taken off the list.
    pub network: String,
    /// Blocks by judgement that were lifted with it.
    pub blocks_lifted: usize,
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
    /// native, generic or detached.
    pub xdp_mode: String,
    /// Why it is not native.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
}

/// Counters since the daemon started.
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

/// A source.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Source {
    /// Its address.
    pub source: String,
    /// SYNs, those sent again among them.
    pub syn: u64,
    /// Handshakes completed.
    pub completed: u64,
    /// Handshakes half open.
    pub half_open: u64,
    /// SYN-ACKs sent to it again.
    pub retried: u64,
    /// Resets.
    pub resets: u64,
    /// SYNs dropped.
    pub dropped: u64,
    /// SYNs challenged.
    pub challenged: u64,
    /// Whether it has completed a handshake.
    pub proven: bool,
    /// Until when it is blocked.
    pub blocked_until: Option<Timestamp>,
    /// Since when it has an entry.
    pub first_seen: Timestamp,
    /// When it last sent a SYN or completed a handshake.
    pub last_seen: Timestamp,
}

/// `GET /sources/{address}`: everything that is known of one source.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Why {
    /// Its address.
    pub address: String,
    /// What becomes of its SYNs, and all that follows, in sentences.
    pub summary: Vec<String>,
    /// Commands that let it in; none where it is.
    pub how_to_let_in: Vec<String>,
    /// Its entry in the source table.
    pub source: Option<Source>,
    /// The entries of lists that it falls under.
    pub lists: Vec<ListEntry>,
    /// The blocks by judgement that it falls under.
    pub blocks: Vec<BlockEntry>,
    /// Its handshakes in state SYN_RECV.
    pub half_open_in_kernel: u64,
    /// The latest events about it, or a network that it is in; the oldest first.
    pub events: Vec<Event>,
}

/// `POST /explain`: what would become of one packet.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// The packet, in short.
    pub packet: String,
    /// pass, drop, answer (with a SYN-ACK) or abort.
    pub verdict: String,
    /// Where that was decided: parse, flags, guard, not_a_syn, port_zero, rules, payload, block, limit, challenge, destination
    /// or account.
    pub stage: String,
    /// What it would be counted as.
    pub counted_as: Vec<String>,
    /// Why it would be dropped, if anything were.
    pub would_drop: Option<String>,
    /// On what entry it was decided, and why.
    pub reason: String,
}

/// A network.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Prefix {
    /// In CIDR form.
    pub prefix: String,
    /// SYNs, since the network has been among the busy ones.
    pub syn: u64,
    /// Handshakes completed or reset, and SYNs sent again, since then.
    pub ended: u64,
    /// When it last sent a SYN.
    pub last_seen: Timestamp,
}

/// How the source table stands.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Tracking {
    /// Sources that have an entry.
    pub sources: u64,
    /// Entries the table has room for.
    pub max_sources: u32,
    /// Entries given since the daemon started.
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

/// `GET /half-open`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct HalfOpenReport {
    /// How many there are.
    pub total: u64,
    /// Of these, the ones whose SYN-ACK was sent again.
    pub retried: u64,
    /// How many by port.
    pub ports: Vec<HalfOpenPort>,
    /// Whether the sources look random, in words.
    pub sources: String,
    /// The rows; at most 65,536 of them.
    pub rows: Vec<HalfOpenRow>,
}

/// Half-open handshakes of one port.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct HalfOpenPort {
    /// The local port.
    pub port: u16,
    /// How many there are.
    pub half_open: u64,
    /// Of these, the ones whose SYN-ACK was sent again.
    pub retried: u64,
}

/// A half-open handshake in the kernel.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct HalfOpenRow {
    /// Local address and port.
    pub local: String,
    /// Remote address and port.
    pub remote: String,
    /// Local port.
    pub port: u16,
    /// Since about when.
    pub age_seconds: f64,
    /// How often the SYN-ACK was sent again.
    pub retransmits: u8,
}

/// `GET /healthz` and `/readyz`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// ok.
    pub status: String,
}

/// `/stats` of a host under attack, for tests of what is made from it.
#[cfg(test)]
pub(crate) fn sample() -> Stats {
    let text = include_str!("sample.json");
    serde_json::from_str(text).unwrap_or_else(|error| panic!("the sample is not /stats: {error}"))
}

//! Metrics without labels.

use std::fmt;

use super::{
    Kind::{self, Counter, Gauge},
    Sink,
};
use crate::api::model::Stats;

struct Metric {
    kind: Kind,
    name: &'static str,
    help: &'static str,
    value: fn(&Stats) -> f64,
}

macro_rules! metrics {
    ($($kind:ident $name:ident: $help:literal, $stats:ident => $value:expr;)*) => {
        const METRICS: &[Metric] =
            &[$(Metric { kind: $kind, name: stringify!($name), help: $help, value: |$stats| ($value) as f64 },)*];
    };
}

metrics! {
    Gauge uptime_seconds: "Seconds since the daemon started", s => s.uptime_seconds;
    Gauge syn_attack_protect_level: "Protection level: 0 watch only, 1 kernel settings, 2 kernel settings and XDP drops", s => s.syn_attack_protect;
    Gauge state_since_timestamp_seconds: "Unix time at which the present state began", s => s.state_since.as_second();
    Counter syn: "SYNs received, including retransmits", s => s.totals.syn;
    Counter bad_flags: "Segments received with a flag combination that no TCP implementation sends", s => s.totals.bad_flags;
    Counter passed: "Frames passed to the kernel", s => s.totals.passed;
    Counter dropped: "Frames dropped", s => s.totals.dropped;
    Counter challenged: "SYNs answered by the datapath, with a cookie or for a reset", s => s.totals.challenged;
    Gauge packets_per_second: "Frames received per second, over the last second", s => s.rates.packets_per_second;
    Gauge syn_per_second: "SYNs per second, over the last second", s => s.rates.syn_per_second;
    Gauge completed_per_second: "Handshakes completed per second, over the last second", s => s.rates.completed_per_second;
    Gauge syn_ack_retried_per_second: "SYN-ACKs retransmitted per second, over the last second", s => s.rates.retried_per_second;
    Gauge rst_per_second: "Resets (RST) per second, over the last second", s => s.rates.rst_per_second;
    Gauge dropped_per_second: "Frames dropped per second, over the last second", s => s.rates.dropped_per_second;
    Gauge challenged_per_second: "SYNs answered by the datapath per second, over the last second", s => s.rates.challenged_per_second;
    Gauge distinct_sources_per_second: "Distinct sources of SYNs per second, estimated", s => s.rates.distinct_sources_per_second;
    Gauge half_open_kernel: "Half-open handshakes in the kernel (SYN_RECV)", s => s.half_open.kernel;
    Gauge half_open_kernel_retried: "Half-open handshakes in the kernel whose SYN-ACK was retransmitted", s => s.half_open.kernel_retried;
    Gauge half_open_datapath: "Half-open handshakes as counted by the datapath", s => s.half_open.datapath;
    Counter refused: "Connection requests refused by the kernel for lack of resources", s => s.refused;
    Gauge threshold_half_open: "The host is under attack above this number of half-open handshakes", s => s.thresholds.max_half_open;
    Gauge threshold_half_open_retried: "The host is under attack above this number of half-open handshakes whose SYN-ACK was retransmitted", s => s.thresholds.max_half_open_retried;
    Gauge threshold_strays_per_second: "The host is under attack above this number of segments per second that belong to no connection", s => s.thresholds.max_stray;
    Gauge threshold_refused_per_second: "The host is under attack above this number of refused connection requests per second", s => s.thresholds.max_ports_exhausted;
    Gauge tracked_sources: "Entries in use in the source table", s => s.tracking.sources;
    Gauge tracked_sources_limit: "Capacity of the source table, in entries", s => s.tracking.max_sources;
    Counter sources_admitted: "Sources admitted to the source table", s => s.tracking.admitted;
    Counter syn_untracked: "SYNs whose source was not admitted because of a flood of new sources", s => s.tracking.syn_untracked;
    Counter completed_untracked: "Handshakes completed by sources that had not been admitted when their SYN arrived", s => s.tracking.completed_untracked;
    Counter events_lost: "Events of the datapath lost because the ring buffer was full", s => s.tracking.events_lost;
    Gauge blocks: "Sources and prefixes blocked", s => s.measures.blocks;
    Gauge kernel_settings_changed: "Kernel settings changed for the duration of an attack", s => s.measures.kernel_settings.len();
    Gauge signatures: "Signatures in force, by which SYNs are dropped", s => s.measures.signatures.len();
    Gauge backlog_advice: "Ports whose backlog should be larger", s => s.measures.advice.len();
    Gauge cookies_good_for_seconds: "Seconds until the last cookie expires; 0 if none is valid", s => s.measures.challenge.cookies_good_for_seconds.unwrap_or(0);
    Counter cookies_returned: "Valid cookies returned by clients", s => s.measures.challenge.cookies_returned;
    Counter challenges_failed: "SYNs that could not be answered by the datapath and were passed", s => s.measures.challenge.failed;
    Counter cpu_seconds: "CPU time used by the daemon", s => s.cost.cpu_seconds;
    Gauge maps_memory_bytes: "Memory of all of the datapath's maps", s => s.memory.bytes;
    Gauge maps_memory_limit_bytes: "Maximum memory of the datapath's maps (limits.memory)", s => s.memory.limit_bytes;
    Gauge resident_memory_bytes: "Resident memory of the daemon", s => s.cost.resident_bytes;
    Counter ticks: "Ticks completed", s => s.cost.ticks;
    Gauge last_tick_seconds: "Duration of the last tick", s => s.cost.last_tick_seconds;
    Gauge longest_tick_delay_seconds: "Longest delay of a tick within the last minute", s => s.cost.longest_tick_delay_seconds;
}

macro_rules! totals {
    ($($counter:ident $field:ident $help:literal, $metric:ident;)*) => {
        /// The counters under `totals` in `/stats`.
        const TOTALS: &[Metric] = &[$(Metric {
            kind: Counter,
            name: stringify!($metric),
            help: $help,
            value: |stats| stats.totals.$field as f64,
        },)*];
    };
}
tcpguard_common::for_each_total!(totals);

pub(super) fn write(stats: &Stats, sink: &mut Sink<'_>) -> fmt::Result {
    let metrics = METRICS.iter().chain(TOTALS);
    metrics.into_iter().try_for_each(|metric| sink.value(metric.kind, metric.name, metric.help, (metric.value)(stats)))
}

//! Metrics without labels, one line each.

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
    Gauge uptime_seconds: "Time since the daemon started", s => s.uptime_seconds;
    Gauge syn_attack_protect_level: "What may be done: 0 nothing, 1 kernel measures, 2 these and XDP", s => s.syn_attack_protect;
    Gauge state_since_timestamp_seconds: "When the present state began", s => s.state_since.as_second();
    Counter packets: "Frames that guarded interfaces received", s => s.totals.packets;
    Counter syn: "SYNs, those sent again among them", s => s.totals.syn;
    Counter syn_ack: "SYN-ACKs received", s => s.totals.syn_ack;
    Counter ack: "Segments with ACK, and neither SYN nor RST", s => s.totals.ack;
    Counter rst: "Resets (RST) received", s => s.totals.rst;
    Counter bad_flags: "Segments with flags that no TCP sends together", s => s.totals.bad_flags;
    Counter passed: "Frames passed to the kernel", s => s.totals.passed;
    Counter dropped: "Frames dropped", s => s.totals.dropped;
    Counter challenged: "SYNs answered with a cookie", s => s.totals.challenged;
    Counter completed: "Handshakes completed", s => s.totals.completed;
    Counter syn_ack_retried: "SYN-ACKs that the kernel sent again", s => s.totals.retried;
    Counter syn_repeated: "SYNs recognised as sent again", s => s.totals.syn_repeated;
    Counter syn_with_payload: "SYNs that carried data", s => s.totals.syn_with_payload;
    Counter handshakes_reset: "Half-open handshakes ended by a reset", s => s.totals.handshakes_reset;
    Counter syn_forwarded: "SYNs for other hosts, which are not judged here", s => s.totals.syn_forwarded;
    Counter syn_closed: "SYNs to ports whose listener closed a while ago, which are not judged", s => s.totals.syn_closed;
    Gauge packets_per_second: "Frames, over the last second", s => s.rates.packets_per_second;
    Gauge syn_per_second: "SYNs, over the last second", s => s.rates.syn_per_second;
    Gauge completed_per_second: "Handshakes completed, over the last second", s => s.rates.completed_per_second;
    Gauge syn_ack_retried_per_second: "SYN-ACKs sent again, over the last second", s => s.rates.retried_per_second;
    Gauge rst_per_second: "Resets (RST), over the last second", s => s.rates.rst_per_second;
    Gauge dropped_per_second: "Frames dropped, over the last second", s => s.rates.dropped_per_second;
    Gauge challenged_per_second: "SYNs answered with a cookie, over the last second", s => s.rates.challenged_per_second;
    Gauge distinct_sources_per_second: "Different sources of SYNs, estimated", s => s.rates.distinct_sources_per_second;
    Gauge half_open_kernel: "Handshakes in state SYN_RECV in the kernel", s => s.half_open.kernel;
    Gauge half_open_kernel_retried: "Of these, the ones whose SYN-ACK was sent again", s => s.half_open.kernel_retried;
    Gauge half_open_datapath: "Half-open handshakes by the datapath's count", s => s.half_open.datapath;
    Counter refused: "Connection requests that the kernel refused for want of resources", s => s.refused;
    Gauge threshold_half_open: "An attack is when more are half open", s => s.thresholds.max_half_open;
    Gauge threshold_half_open_retried: "An attack is when more are half open whose SYN-ACK was sent again", s => s.thresholds.max_half_open_retried;
    Gauge threshold_refused_per_second: "An attack is when more connection requests a second are refused", s => s.thresholds.max_ports_exhausted;
    Gauge tracked_sources: "Sources that have an entry in the source table", s => s.tracking.sources;
    Gauge tracked_sources_limit: "Entries that the source table has room for", s => s.tracking.max_sources;
    Counter sources_admitted: "Entries given in the source table", s => s.tracking.admitted;
    Counter syn_untracked: "SYNs whose source got no entry, because of a flood of new ones", s => s.tracking.syn_untracked;
    Counter completed_untracked: "Handshakes that completed although their SYN had got its source no entry", s => s.tracking.completed_untracked;
    Counter events_lost: "Events of the datapath that were lost because there were too many at once", s => s.tracking.events_lost;
    Gauge blocks: "Sources and networks that are blocked by judgement", s => s.measures.blocks;
    Gauge kernel_settings_changed: "Kernel settings that are changed for as long as an attack lasts", s => s.measures.kernel_settings.len();
    Gauge backlog_advice: "Ports whose backlog should be larger", s => s.measures.advice.len();
    Gauge cookies_good_for_seconds: "For how long cookies that were sent are still good", s => s.measures.challenge.cookies_good_for_seconds.unwrap_or(0);
    Counter cookies_returned: "Cookies that came back and were valid", s => s.measures.challenge.cookies_returned;
    Counter challenges_failed: "SYNs that were to be answered, and could not be: they passed", s => s.measures.challenge.failed;
    Counter cpu_seconds: "Processor time that the daemon has used", s => s.cost.cpu_seconds;
    Gauge resident_memory_bytes: "Memory that the daemon has in use", s => s.cost.resident_bytes;
    Counter ticks: "Snapshots taken", s => s.cost.ticks;
    Gauge last_tick_seconds: "How long the last snapshot took, with all that followed from it", s => s.cost.last_tick_seconds;
    Gauge longest_tick_delay_seconds: "By how much a snapshot came too late at most, within the last minute", s => s.cost.longest_tick_delay_seconds;
}

pub(super) fn write(stats: &Stats, sink: &mut Sink<'_>) -> fmt::Result {
    METRICS.iter().try_for_each(|metric| sink.value(metric.kind, metric.name, metric.help, (metric.value)(stats)))
}

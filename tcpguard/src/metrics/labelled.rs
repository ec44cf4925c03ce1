//! Metrics with labels. A label has no more values than there are drop reasons, kinds, interfaces or listeners: an
//! attacker cannot increase their number. Sources are therefore shown by rank and not by address.

use std::{collections::BTreeMap, fmt};

use super::{
    Kind::{self, Counter, Gauge},
    Sink,
};
use crate::{
    api::model::{Port, Source, Stats},
    detect::{Kind as AttackKind, Phase},
};

/// Ranks of sources that are exported.
const RANKS: usize = 10;

pub(super) fn write(stats: &Stats, sink: &mut Sink<'_>) -> fmt::Result {
    state(stats, sink)?;
    reasons(stats, sink)?;
    interfaces(stats, sink)?;
    services(stats, sink)?;
    ports(stats, sink)?;
    challenges(stats, sink)?;
    sources(stats, sink)?;
    kernel(stats, sink)?;
    cost(stats, sink)?;
    programs(stats, sink)
}

fn cost(stats: &Stats, sink: &mut Sink<'_>) -> fmt::Result {
    let parts = &stats.cost.parts;
    let seconds = [
        ("tick", parts.tick_seconds),
        ("rows", parts.rows_seconds),
        ("maps", parts.maps_seconds),
        ("http", parts.http_seconds),
    ];
    let seconds = seconds.map(|(part, seconds)| ([("part", part.to_owned())], seconds));
    let help = "CPU time used by the daemon: by ticks, to read the kernel's rows, to read maps, and to answer requests";
    sink.family(Counter, ("cpu_part_seconds", help), seconds)?;
    let maps = stats.memory.items.iter().map(|item| ([("map", item.item.clone())], item.bytes as f64));
    sink.family(Gauge, ("map_memory_bytes", "Memory of the datapath's maps, without entries of lists"), maps)
}

fn one_if(is_so: bool) -> f64 {
    f64::from(u8::from(is_so))
}

fn state(stats: &Stats, sink: &mut Sink<'_>) -> fmt::Result {
    let labels = [("version", stats.version.clone())];
    sink.family(Gauge, ("build_info", "Version of the daemon, as a label; always 1"), [(labels, 1.0)])?;
    let phases = [Phase::Calm, Phase::Attack, Phase::Recovering].map(Phase::name);
    let phases = phases.map(|name| ([("state", name.to_owned())], one_if(stats.state == name)));
    sink.family(Gauge, ("state", "1 for the present state, 0 for the others"), phases)?;
    let kind = stats.attack.as_ref().map(|attack| attack.kind.as_str());
    let kinds = AttackKind::ALL.map(AttackKind::name);
    let kinds = kinds.map(|name| ([("kind", name.to_owned())], one_if(kind == Some(name))));
    sink.family(Gauge, ("attack", "1 for the kind of the attack in progress, 0 for the others"), kinds)
}

fn reasons(stats: &Stats, sink: &mut Sink<'_>) -> fmt::Result {
    let mut counts = |name, help, counts: &BTreeMap<String, u64>| {
        sink.family(
            Counter,
            (name, help),
            counts.iter().map(|(reason, count)| ([("reason", reason.clone())], *count as f64)),
        )
    };
    counts("drops", "Frames dropped, by reason", &stats.drops)?;
    counts(
        "would_drops",
        "Frames passed that would be dropped if dropping were enabled, by reason",
        &stats.would_drop,
    )?;
    counts("unread", "Frames without a readable TCP segment, by reason; all were passed", &stats.unread)
}

fn interfaces(stats: &Stats, sink: &mut Sink<'_>) -> fmt::Result {
    let interfaces = stats.interfaces.iter().map(|interface| {
        let labels = [("interface", interface.name.clone()), ("xdp_mode", interface.xdp_mode.clone())];
        (labels, one_if(interface.xdp_mode != "detached"))
    });
    sink.family(
        Gauge,
        ("interface_attached", "1 if the datapath is attached to the interface, 0 if it is detached"),
        interfaces,
    )?;
    let features =
        stats.features.iter().map(|(name, feature)| ([("feature", name.clone())], one_if(feature.available)));
    sink.family(Gauge, ("feature_available", "1 if this kernel supports the feature"), features)
}

fn services(stats: &Stats, sink: &mut Sink<'_>) -> fmt::Result {
    let mut gauge = |name, help, value: fn(&crate::api::model::Service) -> u64| {
        let services = stats.services.iter().map(|service| {
            let ports: Vec<String> = service.ports.iter().map(u16::to_string).collect();
            ([("ports", ports.join(","))], value(service) as f64)
        });
        sink.family(Gauge, (name, help), services)
    };
    gauge("service_under_attack", "1 if the service is under attack", |service| u64::from(service.state == "attack"))?;
    gauge("service_half_open_kernel", "Half-open handshakes of the service in the kernel (SYN_RECV)", |service| {
        service.half_open.kernel
    })?;
    gauge(
        "service_half_open_kernel_retried",
        "Half-open handshakes of the service in the kernel whose SYN-ACK was retransmitted",
        |service| service.half_open.kernel_retried,
    )?;
    gauge("service_half_open_datapath", "Half-open handshakes of the service as counted by the datapath", |service| {
        service.half_open.datapath
    })?;
    gauge(
        "service_threshold_half_open",
        "The service is under attack above this number of half-open handshakes",
        |service| service.max_half_open.into(),
    )
}

/// Writes the metrics of ports with a listener only, so that a port scan cannot add label values.
fn ports(stats: &Stats, sink: &mut Sink<'_>) -> fmt::Result {
    let mut of_ports = |kind: Kind, name, help, value: fn(&Port) -> u64| {
        let open = stats.ports.iter().filter(|port| port.backlog > 0);
        let values = open.map(|port| ([("port", port.port.to_string())], value(port) as f64));
        sink.family(kind, (name, help), values)
    };
    of_ports(Counter, "port_syn", "SYNs to the port", |port| port.syn)?;
    of_ports(Counter, "port_completed", "Handshakes completed on the port", |port| port.completed)?;
    of_ports(Counter, "port_syn_ack_retried", "SYN-ACKs of the port retransmitted by the kernel", |port| port.retried)?;
    of_ports(Counter, "port_challenged", "SYNs to the port selected to be answered with a cookie", |port| {
        port.challenged
    })?;
    of_ports(Gauge, "port_half_open", "Half-open handshakes of the port in the kernel (SYN_RECV)", |port| {
        port.half_open
    })?;
    of_ports(Gauge, "port_backlog", "Sum of the backlogs of the port's listeners", |port| port.backlog)?;
    of_ports(Gauge, "port_accept_queue", "Completed connections in the accept queues of the port", |port| {
        port.accept_queue
    })?;
    of_ports(Gauge, "port_slow_application", "1 if the application accepts connections too slowly", |port| {
        port.slow_application.into()
    })
}

fn challenges(stats: &Stats, sink: &mut Sink<'_>) -> fmt::Result {
    let ports = stats
        .measures
        .challenge
        .ports
        .iter()
        .map(|port| ([("port", port.port.to_string()), ("method", port.method.clone())], port.seconds as f64));
    sink.family(Gauge, ("port_challenged_for_seconds", "Seconds for which the port has been challenged"), ports)?;
    let left_alone = &stats.measures.challenge.left_alone;
    sink.value(Gauge, "ports_left_alone", "Ports that should be challenged but are not", left_alone.len() as f64)
}

fn sources(stats: &Stats, sink: &mut Sink<'_>) -> fmt::Result {
    let mut by_rank = |name, help, value: fn(&Source) -> u64| {
        let ranks = stats.sources.iter().take(RANKS).enumerate();
        let values = ranks.map(|(rank, source)| ([("rank", (rank + 1).to_string())], value(source) as f64));
        sink.family(Gauge, (name, help), values)
    };
    by_rank("top_source_syn", "SYNs of the sources with the most SYNs, by rank", |source| source.syn)?;
    by_rank("top_source_half_open", "Half-open handshakes of the sources with the most SYNs, by rank", |source| {
        source.half_open
    })?;
    by_rank("top_source_dropped", "Dropped SYNs of the sources with the most SYNs, by rank", |source| source.dropped)
}

fn kernel(stats: &Stats, sink: &mut Sink<'_>) -> fmt::Result {
    let counters = stats.tcp_ext.iter().map(|(name, count)| ([("counter", name.clone())], *count as f64));
    sink.family(Counter, ("kernel_tcp", "TCP counters of the kernel since the network namespace was created"), counters)
}

fn programs(stats: &Stats, sink: &mut Sink<'_>) -> fmt::Result {
    // Absent is not the same as 0: the kernel measures programs only if `kernel.bpf_stats_enabled` is set.
    let programs = stats.cost.programs.as_deref().unwrap_or_default();
    let runs = programs.iter().map(|program| ([("program", program.name.clone())], program.runs as f64));
    sink.family(Counter, ("program_runs", "Runs of the BPF program"), runs)?;
    let seconds = programs.iter().map(|program| ([("program", program.name.clone())], program.run_seconds));
    sink.family(Counter, ("program_run_seconds", "Total run time of the BPF program"), seconds)
}

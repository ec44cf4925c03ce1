//! Metrics with labels. No label has more values than there are reasons, kinds, interfaces or listeners: who
//! attacks cannot make them grow, so that sources are shown by rank and not by address.

use std::{collections::BTreeMap, fmt};

use super::{
    Kind::{self, Counter, Gauge},
    Sink,
};
use crate::{
    api::model::{Port, Source, Stats},
    detect::{Kind as AttackKind, Phase},
};

/// Sources that are shown.
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
    programs(stats, sink)
}

fn one_if(is_so: bool) -> f64 {
    f64::from(u8::from(is_so))
}

fn state(stats: &Stats, sink: &mut Sink<'_>) -> fmt::Result {
    let labels = [("version", stats.version.clone())];
    sink.family(Gauge, ("build_info", "The version that runs; always 1"), [(labels, 1.0)])?;
    let phases = [Phase::Calm, Phase::Attack, Phase::Recovering].map(Phase::name);
    let phases = phases.map(|name| ([("state", name.to_owned())], one_if(stats.state == name)));
    sink.family(Gauge, ("state", "1 for the present state"), phases)?;
    let kind = stats.attack.as_ref().map(|attack| attack.kind.as_str());
    let kinds = AttackKind::ALL.map(AttackKind::name);
    let kinds = kinds.map(|name| ([("kind", name.to_owned())], one_if(kind == Some(name))));
    sink.family(Gauge, ("attack", "1 for the kind of attack that is going on"), kinds)
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
    counts("would_drops", "Frames that passed, and would have been dropped if anything were", &stats.would_drop)?;
    counts("unread", "Frames that hold no TCP segment that could be read; all of these passed", &stats.unread)
}

fn interfaces(stats: &Stats, sink: &mut Sink<'_>) -> fmt::Result {
    let interfaces = stats.interfaces.iter().map(|interface| {
        let labels = [("interface", interface.name.clone()), ("xdp_mode", interface.xdp_mode.clone())];
        (labels, one_if(interface.xdp_mode != "detached"))
    });
    sink.family(Gauge, ("interface_attached", "1 where the interface is guarded, 0 where it should be"), interfaces)?;
    let features =
        stats.features.iter().map(|(name, feature)| ([("feature", name.clone())], one_if(feature.available)));
    sink.family(Gauge, ("feature_available", "1 where this kernel has what the feature needs"), features)
}

fn services(stats: &Stats, sink: &mut Sink<'_>) -> fmt::Result {
    let mut gauge = |name, help, value: fn(&crate::api::model::Service) -> u64| {
        let services = stats.services.iter().map(|service| {
            let ports: Vec<String> = service.ports.iter().map(u16::to_string).collect();
            ([("ports", ports.join(","))], value(service) as f64)
        });
        sink.family(Gauge, (name, help), services)
    };
    gauge("service_under_attack", "1 where the service is under attack", |service| {
        u64::from(service.state == "attack")
    })?;
    gauge("service_half_open_kernel", "Handshakes of the service in state SYN_RECV in the kernel", |service| {
        service.half_open.kernel
    })?;
    gauge("service_half_open_kernel_retried", "Of these, the ones whose SYN-ACK was sent again", |service| {
        service.half_open.kernel_retried
    })?;
    gauge("service_half_open_datapath", "Half-open handshakes of the service by the datapath's count", |service| {
        service.half_open.datapath
    })?;
    gauge("service_threshold_half_open", "An attack on the service is when more are half open", |service| {
        service.max_half_open.into()
    })
}

/// Ports that have a listener: who scans the others cannot add to them.
fn ports(stats: &Stats, sink: &mut Sink<'_>) -> fmt::Result {
    let mut of_ports = |kind: Kind, name, help, value: fn(&Port) -> u64| {
        let open = stats.ports.iter().filter(|port| port.backlog > 0);
        let values = open.map(|port| ([("port", port.port.to_string())], value(port) as f64));
        sink.family(kind, (name, help), values)
    };
    of_ports(Counter, "port_syn", "SYNs to the port", |port| port.syn)?;
    of_ports(Counter, "port_completed", "Handshakes of the port that completed", |port| port.completed)?;
    of_ports(Counter, "port_syn_ack_retried", "SYN-ACKs of the port that were sent again", |port| port.retried)?;
    of_ports(Counter, "port_challenged", "SYNs to the port that were to be answered with a cookie", |port| {
        port.challenged
    })?;
    of_ports(Gauge, "port_half_open", "Handshakes of the port in state SYN_RECV in the kernel", |port| port.half_open)?;
    of_ports(Gauge, "port_backlog", "What the listeners of the port can hold", |port| port.backlog)?;
    of_ports(Gauge, "port_accept_queue", "Completed connections that wait to be accepted", |port| port.accept_queue)?;
    of_ports(Gauge, "port_slow_application", "1 where the application accepts too slowly", |port| {
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
    sink.family(Gauge, ("port_challenged_for_seconds", "For how long the port has been challenged"), ports)?;
    let left_alone = &stats.measures.challenge.left_alone;
    sink.value(Gauge, "ports_left_alone", "Ports that should be challenged, and are not", left_alone.len() as f64)
}

fn sources(stats: &Stats, sink: &mut Sink<'_>) -> fmt::Result {
    let mut by_rank = |name, help, value: fn(&Source) -> u64| {
        let ranks = stats.sources.iter().take(RANKS).enumerate();
        let values = ranks.map(|(rank, source)| ([("rank", (rank + 1).to_string())], value(source) as f64));
        sink.family(Gauge, (name, help), values)
    };
    by_rank("top_source_syn", "SYNs of the sources with most of them, by rank", |source| source.syn)?;
    by_rank("top_source_half_open", "Half-open handshakes of the same sources", |source| source.half_open)?;
    by_rank("top_source_dropped", "SYNs of the same sources that were dropped", |source| source.dropped)
}

fn kernel(stats: &Stats, sink: &mut Sink<'_>) -> fmt::Result {
    let counters = stats.tcp_ext.iter().map(|(name, count)| ([("counter", name.clone())], *count as f64));
    sink.family(Counter, ("kernel_tcp", "The kernel's own counters, since its network namespace began"), counters)
}

fn programs(stats: &Stats, sink: &mut Sink<'_>) -> fmt::Result {
    // Not there is different from 0: the kernel measures programs only where it is told to.
    let programs = stats.cost.programs.as_deref().unwrap_or_default();
    let runs = programs.iter().map(|program| ([("program", program.name.clone())], program.runs as f64));
    sink.family(Counter, ("program_runs", "How often the BPF program ran"), runs)?;
    let seconds = programs.iter().map(|program| ([("program", program.name.clone())], program.run_seconds));
    sink.family(Counter, ("program_run_seconds", "How long all runs of the BPF program took together"), seconds)
}

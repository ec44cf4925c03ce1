//! Metrics of protected networks. Their labels are names and ports of the configuration.

use std::fmt;

use super::{
    Kind::{self, Counter, Gauge},
    Sink,
};
use crate::api::model::{Protected, ProtectedPort, Stats};

pub(super) fn write(stats: &Stats, sink: &mut Sink<'_>) -> fmt::Result {
    sections(stats, sink)?;
    ports(stats, sink)
}

fn sections(stats: &Stats, sink: &mut Sink<'_>) -> fmt::Result {
    let mut gauge = |name, help, value: fn(&Protected) -> u64| {
        let sections = stats.protected.iter();
        let values = sections.map(|section| ([("name", section.name.clone())], value(section) as f64));
        sink.family(Gauge, (name, help), values)
    };
    gauge("protected_under_attack", "1 if the protected networks are under attack", |section| {
        u64::from(section.state == "attack")
    })?;
    gauge("protected_half_open", "Half-open handshakes of the protected networks", |section| section.half_open)?;
    gauge(
        "protected_threshold_half_open",
        "The protected networks are under attack above this number of half-open handshakes",
        |section| section.max_half_open.into(),
    )?;
    gauge(
        "protected_return_path_elsewhere",
        "1 if the SYN-ACKs of the protected networks do not pass through this host",
        |section| u64::from(section.is_answered_elsewhere()),
    )
}

fn ports(stats: &Stats, sink: &mut Sink<'_>) -> fmt::Result {
    let mut of_ports = |kind: Kind, name, help, value: fn(&ProtectedPort) -> u64| {
        let ports = stats.protected.iter().flat_map(|section| section.ports.iter().map(move |port| (section, port)));
        let values = ports.map(|(section, port)| {
            ([("name", section.name.clone()), ("port", port.port.to_string())], value(port) as f64)
        });
        sink.family(kind, (name, help), values)
    };
    of_ports(Counter, "protected_port_syn", "SYNs to the port of protected networks", |port| port.syn)?;
    of_ports(
        Counter,
        "protected_port_completed",
        "Handshakes completed with the port of protected networks",
        |port| port.completed,
    )?;
    of_ports(Counter, "protected_port_syn_ack_retried", "SYN-ACKs retransmitted by the protected servers", |port| {
        port.retried
    })?;
    of_ports(Gauge, "protected_port_half_open", "Half-open handshakes of the port of protected networks", |port| {
        port.half_open
    })?;
    of_ports(Gauge, "protected_port_challenged", "1 if SYNs to the port of protected networks are challenged", |port| {
        port.challenged.into()
    })
}

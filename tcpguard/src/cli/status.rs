//! `tcpguard status`.

use std::path::Path;

use anyhow::Result;
use bytesize::ByteSize;

use super::{Asking, print, print_json};
use crate::api::model::{Challenge, Interface, Port, Protected, Stats};

pub(super) fn status(config: Option<&Path>, asking: &Asking) -> Result<()> {
    let stats: Stats = asking.get(config, "/stats")?;
    if asking.json { print_json(&stats) } else { print(&describe(&stats)) }
}

/// Formats the report as ten lines.
fn describe(stats: &Stats) -> String {
    let interfaces: Vec<String> = stats.interfaces.iter().map(describe_interface).collect();
    let (totals, rates, thresholds) = (&stats.totals, &stats.rates, &stats.thresholds);
    let lines = [
        ("tcpguard", format!("{}, up {}", stats.version, duration(stats.uptime_seconds))),
        ("state", describe_state(stats)),
        ("guarding", interfaces.join(", ")),
        (
            "now",
            format!(
                "{:.0} SYN/s from {:.0} sources/s, {:.0} handshakes completed/s",
                rates.syn_per_second, rates.distinct_sources_per_second, rates.completed_per_second
            ),
        ),
        (
            "half open",
            format!(
                "{} in the kernel (limit {}), {} of them retried (limit {}); {} by the datapath",
                stats.half_open.kernel,
                thresholds.max_half_open,
                stats.half_open.kernel_retried,
                thresholds.max_half_open_retried,
                stats.half_open.datapath
            ),
        ),
        ("refused", format!("{} connection requests, because a queue was full", stats.refused)),
        (
            "totals",
            format!(
                "{} packets, {} SYN, {} completed, {} resets, {} dropped, {} challenged",
                totals.packets, totals.syn, totals.completed, totals.rst, totals.dropped, totals.challenged
            ),
        ),
        (
            "sources",
            format!(
                "{} of {} entries in use; memory: {}",
                stats.tracking.sources,
                stats.tracking.max_sources,
                describe_memory(stats)
            ),
        ),
        (
            "top",
            stats.sources.first().map_or_else(
                || "none yet".to_owned(),
                |top| {
                    format!("{}: {} SYN, {} completed, {} half open", top.source, top.syn, top.completed, top.half_open)
                },
            ),
        ),
        ("ports", format!("{}{}", describe_ports(&stats.ports), describe_protected(&stats.protected))),
    ];
    lines.iter().map(|(name, value)| format!("{name:<10} {value}\n")).collect()
}

fn describe_state(stats: &Stats) -> String {
    let level = match stats.syn_attack_protect {
        0 => " (watching only)",
        1 => " (kernel measures only)",
        _ => "",
    };
    match &stats.attack {
        None => format!("{}{level}", stats.state),
        Some(attack) => {
            let blocks = stats.measures.blocks;
            let evidence = attack.evidence.join("; ");
            let challenged = describe_challenge(&stats.measures.challenge);
            format!(
                "{}{level}, {} since {:.0}: {evidence}; {blocks} blocked{challenged}",
                stats.state, attack.kind, attack.since
            )
        }
    }
}

fn describe_challenge(challenge: &Challenge) -> String {
    let ports: Vec<String> =
        challenge.ports.iter().map(|port| format!("port {} challenged by {}", port.port, port.method)).collect();
    ports.iter().map(|port| format!("; {port}")).collect()
}

fn describe_memory(stats: &Stats) -> String {
    let size = |bytes: u64| ByteSize::b(bytes).display().iec();
    let memory = &stats.memory;
    format!(
        "{} of {} in maps ({}, …); {} in the daemon",
        size(memory.bytes),
        size(memory.limit_bytes),
        memory.largest(3),
        size(stats.cost.resident_bytes)
    )
}

fn describe_interface(interface: &Interface) -> String {
    let reason = interface.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    format!("{} ({}{reason})", interface.name, interface.xdp_mode)
}

fn describe_ports(ports: &[Port]) -> String {
    let mut busiest: Vec<&Port> = ports.iter().filter(|port| port.syn > 0).collect();
    busiest.sort_by_key(|port| std::cmp::Reverse(port.syn));
    let described: Vec<String> = busiest
        .iter()
        .take(3)
        .map(|port| format!("{} ({} SYN, {} half open)", port.port, port.syn, port.half_open))
        .collect();
    if described.is_empty() { "no SYN yet".to_owned() } else { described.join(", ") }
}

fn describe_protected(sections: &[Protected]) -> String {
    let describe = |section: &Protected| {
        let method = section.method.as_ref().map_or_else(String::new, |method| format!(", challenged by {method}"));
        let way = if section.is_answered_elsewhere() { ", SYN-ACKs take another way" } else { "" };
        let (name, state, half_open) = (&section.name, &section.state, section.half_open);
        format!("; {name}: {state}, {half_open} half open (limit {}){method}{way}", section.max_half_open)
    };
    sections.iter().map(describe).collect()
}

fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

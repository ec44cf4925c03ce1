//! `tcpguard half-open`.

use std::path::Path;

use anyhow::{Context, Result};
use clap::Args;

use super::{
    Asking,
    client::{self, Presence},
    print, print_json,
    table::table,
};
use crate::{
    api::{self, model::HalfOpenReport},
    kernel::{KernelView, LiveKernel},
};

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    asking: Asking,
    /// Show only handshakes of this local port
    #[arg(long)]
    port: Option<u16>,
}

/// Queries the daemon or, if none runs, the kernel directly; the report is the same.
pub(super) fn half_open(config: Option<&Path>, arguments: &Arguments) -> Result<()> {
    let report = if client::presence(&arguments.asking.socket(config)?) == Presence::Listens {
        let query = arguments.port.map_or_else(String::new, |port| format!("?port={port}"));
        arguments.asking.get(config, &format!("/half-open{query}"))?
    } else {
        ask_kernel(arguments.port)?
    };
    if arguments.asking.json { print_json(&report) } else { print(&describe(&report)) }
}

fn ask_kernel(port: Option<u16>) -> Result<HalfOpenReport> {
    let table = LiveKernel::open()
        .and_then(|mut kernel| kernel.half_open())
        .context("cannot read the kernel's half-open handshakes (CONFIG_INET_DIAG)")?;
    Ok(api::half_open_report(&table, port))
}

fn describe(report: &HalfOpenReport) -> String {
    let mut text = String::new();
    if !report.rows.is_empty() {
        let rows: Vec<_> = report
            .rows
            .iter()
            .map(|row| {
                [
                    row.local.clone(),
                    row.remote.clone(),
                    "SYN_RECV".to_owned(),
                    format!("{:.1}", row.age_seconds),
                    row.retransmits.to_string(),
                ]
            })
            .collect();
        text.push_str(&table(["LOCAL", "REMOTE", "STATE", "AGE/S", "RETRANSMITS"], &rows));
        text.push('\n');
    }
    for port in &report.ports {
        text.push_str(&format!("port {}: {} half open, {} of them retried\n", port.port, port.half_open, port.retried));
    }
    text.push_str(&format!("all: {} half open, {} of them retried\n", report.total, report.retried));
    text.push_str(&report.sources);
    text.push('\n');
    if let Some(note) = &report.note {
        text.push_str(&format!("note: {note}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::kernel::{HalfOpen, HalfOpenTable};

    #[test]
    fn it_reads_like_netstat_with_a_summary() {
        let mut table = HalfOpenTable::default();
        for (port, retransmits) in [(80, 0), (80, 1), (443, 0)] {
            table.add(HalfOpen {
                local: ([198, 18, 0, 1], port).into(),
                remote: ([198, 18, 0, 9], 40_000 + u16::from(retransmits)).into(),
                age: Duration::from_millis(600),
                retransmits,
            });
        }
        assert_eq!(
            describe(&api::half_open_report(&table, Some(80))),
            "LOCAL          REMOTE            STATE     AGE/S  RETRANSMITS\n\
             198.18.0.1:80  198.18.0.9:40000  SYN_RECV    0.6            0\n\
             198.18.0.1:80  198.18.0.9:40001  SYN_RECV    0.6            1\n\
             \n\
             port 80: 2 half open, 1 of them retried\n\
             all: 2 half open, 1 of them retried\n\
             too few to tell whether the sources are random (2)\n"
        );
    }
}

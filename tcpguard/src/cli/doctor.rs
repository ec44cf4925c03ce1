//! `tcpguard doctor`.

use std::{path::Path, process::ExitCode};

use anyhow::Result;
use hyper::Method;

use super::{
    Asking, DEFAULT_CONFIG, FAILED,
    client::{self, Presence},
    load_config, print, print_json, runtime,
};
use crate::{
    config::Config,
    doctor::{Daemon, Finding, Report, Status, examine},
};

/// Prints the report. The exit code is 0, or 1 if there is something to fix.
pub(super) fn doctor(config: Option<&Path>, asking: &Asking) -> Result<ExitCode> {
    let loaded = load_config(config).map_err(|error| error.to_string());
    let socket = asking.socket.clone().unwrap_or_else(|| {
        loaded.as_ref().map_or_else(|_| Config::default().listen.socket, |config| config.listen.socket.clone())
    });
    let daemon = match client::presence(&socket) {
        Presence::Listens => match client::request(&socket, Method::GET, "/stats", None) {
            Ok(stats) => Daemon::Answers(Box::new(stats)),
            Err(error) => Daemon::Unwell(super::sentence(&error)),
        },
        Presence::Absent => Daemon::Absent,
        Presence::Forbidden => Daemon::Forbidden,
    };
    let file = config.or_else(|| Some(Path::new(DEFAULT_CONFIG)).filter(|file| file.exists()));
    let report = runtime()?.block_on(examine(file, loaded, &socket, &daemon));
    if asking.json {
        print_json(&report)?
    } else {
        print(&describe(&report))?
    }
    Ok(if report.to_fix == 0 { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

fn describe(report: &Report) -> String {
    let mut text = String::new();
    let mut area = "";
    for finding in &report.findings {
        if finding.area != area {
            area = finding.area;
            text.push_str(&format!("{area}\n"));
        }
        text.push_str(&describe_one(finding));
    }
    let fixes: Vec<&Finding> = report.findings.iter().filter(|finding| finding.status == Status::Fix).collect();
    match fixes.len() {
        0 => text.push_str("\nNo problems found.\n"),
        1 => text.push_str("\n1 problem to fix:\n"),
        count => text.push_str(&format!("\n{count} problems to fix:\n")),
    }
    for finding in fixes {
        text.push_str(&format!("  {}: {}\n", finding.name, finding.fix.as_deref().unwrap_or_default()));
    }
    text
}

fn describe_one(finding: &Finding) -> String {
    let Finding { name, status, value, meaning, fix, .. } = finding;
    let fix = fix.as_ref().map_or_else(String::new, |fix| {
        let word = if *status == Status::Fix { "fix" } else { "to change it" };
        format!("        {word}: {fix}\n")
    });
    format!("  {:<4}  {name}: {value}\n        {meaning}\n{fix}", status.name())
}

//! `tcpguard block | unblock | allow | disallow | lists`.

use std::{path::Path, time::Duration};

use anyhow::Result;
use clap::Args;
use hyper::Method;
use serde_json::json;

use super::{Asking, Usage, print, print_json, table::table};
use crate::{
    api::model::{ListEntry, ListReport, Removed},
    lists::{ListError, ListName, check_duration},
    network::Network,
};

#[derive(Args)]
pub(super) struct Addition {
    #[command(flatten)]
    asking: Asking,
    /// Address or network (CIDR)
    #[arg(value_parser = network)]
    network: Network,
    /// Lifetime of the entry, such as 10m or 2h (default: until it is removed)
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    lasts: Option<Duration>,
    /// Reason shown in the list
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(Args)]
pub(super) struct Block {
    #[command(flatten)]
    addition: Addition,
    /// Accept networks wider than /8 (IPv4) or /16 (IPv6)
    #[arg(long)]
    force: bool,
}

#[derive(Args)]
pub(super) struct Removal {
    #[command(flatten)]
    asking: Asking,
    /// Address or network (CIDR)
    #[arg(value_parser = network)]
    network: Network,
}

fn network(text: &str) -> Result<Network, String> {
    text.parse().map_err(|error: crate::network::NotANetwork| error.to_string())
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed = humantime_serde::re::humantime::parse_duration(text);
    let duration = parsed.map_err(|error| format!("{error}; write it as 90s, 10m or 2h"))?;
    check_duration(Some(duration)).map_err(|error| error.to_string())?;
    Ok(duration)
}

pub(super) fn block(config: Option<&Path>, arguments: &Block) -> Result<()> {
    let network = arguments.addition.network;
    if network.is_too_wide() && !arguments.force {
        return Err(Usage(ListError::TooWide(network).to_string()).into());
    }
    add(config, &arguments.addition, ListName::Deny, arguments.force)
}

pub(super) fn allow(config: Option<&Path>, arguments: &Addition) -> Result<()> {
    add(config, arguments, ListName::Allow, false)
}

fn add(config: Option<&Path>, arguments: &Addition, list: ListName, force: bool) -> Result<()> {
    let body = json!({
        "network": arguments.network.to_string(),
        "for": arguments.lasts.map(|lasts| lasts.as_secs_f64()),
        "reason": arguments.reason,
        "force": force,
    });
    let path = format!("/lists/{}", list.name());
    let entry: ListEntry = arguments.asking.change(config, Method::POST, &path, Some(&body))?;
    if arguments.asking.json {
        return print_json(&entry);
    }
    let until = entry.expires.map_or_else(String::new, |expires| format!(" until {expires:.0}"));
    print(&format!("{} is on the {} list{until}\n", entry.network, list.name()))
}

pub(super) fn unblock(config: Option<&Path>, arguments: &Removal) -> Result<()> {
    remove(config, arguments, ListName::Deny)
}

pub(super) fn disallow(config: Option<&Path>, arguments: &Removal) -> Result<()> {
    remove(config, arguments, ListName::Allow)
}

fn remove(config: Option<&Path>, arguments: &Removal, list: ListName) -> Result<()> {
    let path = format!("/lists/{}?network={}", list.name(), arguments.network);
    let removed: Removed = arguments.asking.change(config, Method::DELETE, &path, None)?;
    if arguments.asking.json {
        return print_json(&removed);
    }
    let lifted = match removed.blocks_lifted {
        0 => String::new(),
        blocks => format!("; {blocks} blocks by judgement were lifted"),
    };
    print(&format!("{} is off the {} list{lifted}\n", removed.network, list.name()))
}

pub(super) fn show(config: Option<&Path>, asking: &Asking) -> Result<()> {
    let report: ListReport = asking.get(config, "/lists")?;
    if asking.json { print_json(&report) } else { print(&describe(&report)) }
}

fn describe(report: &ListReport) -> String {
    let row = |entry: &ListEntry| {
        [
            entry.list.name().to_owned(),
            entry.network.clone(),
            entry.origin.clone(),
            entry.expires.map_or_else(|| "never".to_owned(), |expires| format!("{expires:.0}")),
            entry.reason.clone().unwrap_or_default(),
        ]
    };
    let mut rows: Vec<[String; 5]> = report.allow.iter().chain(&report.deny).map(row).collect();
    rows.extend(report.blocks.iter().map(|block| {
        let reason = format!("half-open handshakes, block number {}", block.times);
        ["block".to_owned(), block.network.clone(), "judgement".to_owned(), format!("{:.0}", block.expires), reason]
    }));
    if rows.is_empty() {
        return "the lists are empty, and nobody is blocked\n".to_owned();
    }
    table(["LIST", "NETWORK", "ORIGIN", "EXPIRES", "REASON"], &rows)
}

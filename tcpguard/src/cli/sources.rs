//! `tcpguard sources`.

use std::path::Path;

use anyhow::Result;
use clap::Args;
use jiff::{SignedDuration, Timestamp};

use super::{Asking, print, print_json, sort::Sort, table::table};
use crate::api::model::Source;

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    asking: Asking,
    /// Sort order
    #[arg(long, value_enum, default_value_t = Sort::Syn)]
    sort: Sort,
    /// Maximum number of sources to show
    #[arg(long, default_value_t = 20)]
    limit: u32,
}

pub(super) fn sources(config: Option<&Path>, arguments: &Arguments) -> Result<()> {
    let sort = arguments.sort.name();
    let path = format!("/sources?sort={sort}&limit={}", arguments.limit);
    let sources: Vec<Source> = arguments.asking.get(config, &path)?;
    if arguments.asking.json { print_json(&sources) } else { print(&describe(&sources, Timestamp::now())) }
}

fn describe(sources: &[Source], now: Timestamp) -> String {
    if sources.is_empty() {
        return "no source has sent a SYN yet\n".to_owned();
    }
    let rows: Vec<_> = sources
        .iter()
        .map(|source| {
            [
                source.source.clone(),
                source.syn.to_string(),
                source.completed.to_string(),
                source.half_open.to_string(),
                source.retried.to_string(),
                source.resets.to_string(),
                source.dropped.to_string(),
                if source.proven { "yes" } else { "no" }.to_owned(),
                ago(now.duration_since(source.last_seen)),
            ]
        })
        .collect();
    let headings = ["SOURCE", "SYN", "COMPLETED", "HALF-OPEN", "RETRIED", "RESETS", "DROPPED", "PROVEN", "LAST SEEN"];
    table(headings, &rows)
}

fn ago(age: SignedDuration) -> String {
    match age.as_secs() {
        ..=0 => "now".to_owned(),
        seconds @ 1..120 => format!("{seconds} s ago"),
        seconds @ 120..7200 => format!("{} min ago", seconds / 60),
        seconds => format!("{} h ago", seconds / 3600),
    }
}

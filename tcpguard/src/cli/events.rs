//! `tcpguard events`.

use std::path::Path;

use anyhow::Result;
use clap::Args;

use super::{Asking, Usage, client, print, print_json};
use crate::events::{Event, Since};

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    asking: Asking,
    /// Show only events after this id or time (such as 2026-11-20T08:00:00Z)
    #[arg(long, value_name = "ID|TIME")]
    since: Option<String>,
    /// Maximum number of past events to show
    #[arg(long, default_value_t = 20)]
    limit: u32,
    /// Also show new events as they occur, until interrupted
    #[arg(long, short)]
    follow: bool,
}

pub(super) fn events(config: Option<&Path>, arguments: &Arguments) -> Result<()> {
    let since = arguments.since.as_deref().map(str::parse::<Since>).transpose().map_err(Usage)?;
    let query = since.map_or_else(String::new, |since| match since {
        Since::Id(id) => format!("&since={id}"),
        Since::Time(time) => format!("&since={time}"),
    });
    let past: Vec<Event> = arguments.asking.get(config, &format!("/events?limit={}{query}", arguments.limit))?;
    if !arguments.follow {
        return if arguments.asking.json { print_json(&past) } else { print(&describe_all(&past)) };
    }
    let show = |event: &Event| {
        if arguments.asking.json {
            print(&format!("{}\n", serde_json::to_string(event)?))
        } else {
            print(&describe(event))
        }
    };
    past.iter().try_for_each(show)?;
    let last = past.last().map_or(0, |event| event.id);
    client::stream(&arguments.asking.socket(config)?, &format!("/events/stream?since={last}"), |message| {
        show(&serde_json::from_str(&message.data)?)
    })
}

fn describe_all(events: &[Event]) -> String {
    if events.is_empty() {
        return "no events yet\n".to_owned();
    }
    events.iter().map(describe).collect()
}

fn describe(event: &Event) -> String {
    let would = if event.watch_only { "would be: " } else { "" };
    format!("{:.0}  {:<22}  {would}{}\n", event.time, event.kind.name(), event.message)
}

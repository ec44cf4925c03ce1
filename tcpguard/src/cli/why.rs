//! `tcpguard why`.

use std::{net::IpAddr, path::Path};

use anyhow::Result;
use clap::Args;

use super::{Asking, print, print_json};
use crate::api::model::Why;

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    asking: Asking,
    /// Address of the source
    address: IpAddr,
}

pub(super) fn why(config: Option<&Path>, arguments: &Arguments) -> Result<()> {
    let why: Why = arguments.asking.get(config, &format!("/sources/{}", arguments.address))?;
    if arguments.asking.json { print_json(&why) } else { print(&describe(&why)) }
}

fn describe(why: &Why) -> String {
    let mut text = format!("{}\n", why.address);
    for line in &why.summary {
        text.push_str(&format!("  {line}\n"));
    }
    for event in &why.events {
        text.push_str(&format!("  {:.0}  {}\n", event.time, event.message));
    }
    for command in &why.how_to_let_in {
        text.push_str(&format!("To let it in: {command}\n"));
    }
    text
}

//! `tcpguard reload`.

use std::path::Path;

use anyhow::Result;
use hyper::Method;

use super::{Asking, load_config, print, print_json};
use crate::daemon::command::Reloaded;

/// Makes the daemon reload its configuration. The file is validated first, so that errors are reported without a
/// daemon.
pub(super) fn reload(file: Option<&Path>, asking: &Asking) -> Result<()> {
    load_config(file)?;
    let reloaded: Reloaded = asking.change(file, Method::POST, "/reload", None)?;
    if asking.json { print_json(&reloaded) } else { print(&told(&reloaded)) }
}

fn told(reloaded: &Reloaded) -> String {
    let mut text = String::new();
    for change in &reloaded.changes {
        text += &format!("{change}\n");
    }
    for problem in &reloaded.problems {
        text += &format!("but: {problem}\n");
    }
    if text.is_empty() { "nothing is different\n".to_owned() } else { text }
}

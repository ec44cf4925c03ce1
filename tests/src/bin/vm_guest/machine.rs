//! Commands and checks on the virtual machine.

use anyhow::{Context, Result, bail, ensure};
use aya::programs::{loaded_links, loaded_programs};

/// Settings that tcpguard changes, below /proc/sys/net, with the machine's values.
pub const ORIGINAL_SETTINGS: [(&str, &str); 3] =
    [("ipv4/tcp_syncookies", "1"), ("ipv4/tcp_timestamps", "1"), ("ipv4/tcp_synack_retries", "5")];

/// Runs a command and returns its standard output.
pub fn run(arguments: &str) -> Result<String> {
    let output = crate::command(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .output()
        .with_context(|| format!("cannot run {arguments}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{arguments}: {} {text} {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(text)
}

/// Runs a command and returns the lines of its standard output.
pub fn lines(arguments: &str) -> Result<Vec<String>> {
    Ok(run(arguments)?.lines().map(str::to_owned).collect())
}

/// Checks that the kernel has none of tcpguard's programs and links, and that all settings are restored.
pub fn nothing_is_attached() -> Result<()> {
    let ours = ["tcpguard", "handshake_comp", "syn_ack_retried", "answer_syn"];
    lab::eventually(
        "the kernel has removed the programs",
        || {
            let programs = loaded_programs().filter_map(std::result::Result::ok);
            Ok(programs.filter_map(|program| program.name_as_str().map(str::to_owned)).collect::<Vec<_>>())
        },
        |names| !names.iter().any(|name| ours.iter().any(|ours| name.starts_with(ours))),
    )?;
    let links = loaded_links().filter_map(std::result::Result::ok).count();
    // The client's end of the cable has a link.
    ensure!(links <= 1, "{links} BPF links are left");
    for (setting, value) in ORIGINAL_SETTINGS {
        let now =
            std::fs::read_to_string(format!("/proc/sys/net/{setting}")).context("cannot read a kernel setting")?;
        ensure!(now.trim() == value, "{setting} is {}", now.trim());
    }
    Ok(())
}

//! The tcpguard service, as shown by systemd and tcpguard's commands.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::machine::run;

const CAP_BPF: u64 = 1 << 39;
const CAP_NET_ADMIN: u64 = 1 << 12;
const CAP_PERFMON: u64 = 1 << 38;

/// The tcpguard service.
pub struct Service;

impl Service {
    fn property(&self, name: &str) -> Result<String> {
        Ok(run(&format!("systemctl show --value -p {name} tcpguard.service"))?.trim().to_owned())
    }

    /// Returns the process id of the daemon; 0 if it is not running.
    pub fn process(&self) -> Result<u32> {
        self.property("MainPID")?.parse().context("cannot determine the daemon's process")
    }

    /// Checks that the service is active, runs as an unprivileged user with exactly three capabilities, and reports its
    /// status.
    pub fn is_active_and_unprivileged(&self) -> Result<()> {
        let state = self.property("ActiveState")?;
        ensure!(state == "active", "the service is {state}");
        let status = fs::read_to_string(format!("/proc/{}/status", self.process()?))
            .context("cannot determine the daemon's process")?;
        let line =
            |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim).unwrap_or_default();
        ensure!(!line("Uid:").starts_with('0'), "the daemon runs as root");
        // The commands that it runs have only those that are ambient.
        let three = CAP_BPF | CAP_NET_ADMIN | CAP_PERFMON;
        for (set, expected) in [("CapPrm:", three), ("CapEff:", three), ("CapBnd:", three), ("CapAmb:", 0)] {
            let capabilities = u64::from_str_radix(line(set), 16).context("cannot parse the capabilities")?;
            ensure!(capabilities == expected, "{set} {capabilities:x}");
        }
        let text = self.property("StatusText")?;
        ensure!(text.contains("guarding lab-server"), "the service's status is \"{text}\"");
        Ok(())
    }

    /// Returns how long the last start took.
    pub fn start_took(&self) -> Result<Duration> {
        let moment = |name: &str| -> Result<u64> { self.property(name)?.parse().context("cannot parse a timestamp") };
        let took = moment("ActiveEnterTimestampMonotonic")? - moment("InactiveExitTimestampMonotonic")?;
        Ok(Duration::from_micros(took))
    }

    /// Checks that the daemon has changed kernel settings and cannot write to any others.
    pub fn changes_kernel_settings_unprivileged(&self) -> Result<()> {
        let events = run("tcpguard events --json --limit 1000")?;
        ensure!(events.contains("kernel_setting_changed"), "no kernel setting was changed: {events}");
        let enter = format!("nsenter -t {} -m --", self.process()?);
        let writes = |path: &str| run(&format!("{enter} test -w {path}")).is_ok();
        ensure!(writes("/proc/sys/net/ipv4/tcp_syncookies"), "tcp_syncookies cannot be written");
        for path in [
            "/proc/sys/net/ipv4/ip_forward",
            "/proc/sys/kernel/core_pattern",
            "/etc",
            "/usr/bin",
            "/var/lib",
            "/sys/fs/bpf",
        ] {
            ensure!(!writes(path), "{path} is writable");
        }
        Ok(())
    }

    /// Returns the output of `tcpguard status --json`.
    pub fn stats(&self) -> Result<Value> {
        let text = run("tcpguard status --json")?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// Returns the number of SYNs counted.
    pub fn syn(&self) -> Result<u64> {
        self.stats()?["totals"]["syn"].as_u64().context("totals.syn is not a number")
    }
}

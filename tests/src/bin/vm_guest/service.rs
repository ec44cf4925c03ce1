//! The service, as systemd and its own commands show it.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::machine::run;

const CAP_BPF: u64 = 1 << 39;
const CAP_NET_ADMIN: u64 = 1 << 12;
const CAP_PERFMON: u64 = 1 << 38;

/// tcpguard's.
pub struct Service;

impl Service {
    fn property(&self, name: &str) -> Result<String> {
        Ok(run(&format!("systemctl show --value -p {name} tcpguard.service"))?.trim().to_owned())
    }

    /// Its main process.
    pub fn process(&self) -> Result<u32> {
        self.property("MainPID")?.parse().context("no process")
    }

    /// It runs as a user of its own, with three capabilities and no more, and says how it does.
    pub fn is_active_and_unprivileged(&self) -> Result<()> {
        let state = self.property("ActiveState")?;
        ensure!(state == "active", "it is {state}");
        let status = fs::read_to_string(format!("/proc/{}/status", self.process()?)).context("no process")?;
        let line =
            |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim).unwrap_or_default();
        ensure!(!line("Uid:").starts_with('0'), "it runs as root");
        for set in ["CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            let capabilities = u64::from_str_radix(line(set), 16).context("no capabilities")?;
            ensure!(capabilities == CAP_BPF | CAP_NET_ADMIN | CAP_PERFMON, "{set} {capabilities:x}");
        }
        let text = self.property("StatusText")?;
        ensure!(text.contains("guarding lab-server"), "its status is \"{text}\"");
        Ok(())
    }

    /// How long its last start took.
    pub fn start_took(&self) -> Result<Duration> {
        let moment = |name: &str| -> Result<u64> { self.property(name)?.parse().context("no time") };
        let took = moment("ActiveEnterTimestampMonotonic")? - moment("InactiveExitTimestampMonotonic")?;
        Ok(Duration::from_micros(took))
    }

    /// In an attack it changes kernel settings; it could change no others.
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
            ensure!(!writes(path), "{path} could be written");
        }
        Ok(())
    }

    /// What it says.
    pub fn stats(&self) -> Result<Value> {
        let text = run("tcpguard status --json")?;
        serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
    }

    /// SYNs counted.
    pub fn syn(&self) -> Result<u64> {
        self.stats()?["totals"]["syn"].as_u64().context("no number")
    }
}

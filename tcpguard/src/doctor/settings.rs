//! Checks of the kernel settings that matter in a SYN flood.

use std::{fs, io};

use super::{Finding, Status};
use crate::config::Config;

const AREA: &str = "setting";

/// A kernel setting.
struct Setting {
    name: &'static str,
    /// Effect of the setting, in relation to tcpguard.
    meaning: &'static str,
    /// Returns a better value than the given one, or `None` if that is acceptable.
    better: fn(&str) -> Option<&'static str>,
    /// Whether another value is only a note, not a problem to fix.
    is_matter_of_taste: bool,
}

fn number(value: &str) -> i64 {
    value.parse().unwrap_or(0)
}

const SETTINGS: &[Setting] = &[
    Setting {
        name: "net.ipv4.tcp_syncookies",
        meaning: "1: the kernel answers with cookies when a backlog is full, as a last resort. tcpguard sets it to 2 while it \
                  sends cookies itself, and restores it",
        better: |value| (value == "0").then_some("1"),
        is_matter_of_taste: false,
    },
    Setting {
        name: "net.ipv4.tcp_timestamps",
        meaning: "without timestamps, connections completed by a cookie have no window scaling and are slow on long paths. \
                  tcpguard sets it to 2 while it sends cookies, and restores it",
        better: |value| (value == "0").then_some("1"),
        is_matter_of_taste: false,
    },
    Setting {
        name: "net.core.somaxconn",
        meaning: "maximum backlog: larger requests of an application are capped to this value",
        better: |value| (number(value) < 1024).then_some("4096"),
        is_matter_of_taste: false,
    },
    Setting {
        name: "net.ipv4.tcp_max_syn_backlog",
        meaning: "limits half-open handshakes only while tcp_syncookies is 0; otherwise the listener's backlog limits them",
        better: |value| (number(value) < 1024).then_some("4096"),
        is_matter_of_taste: true,
    },
    Setting {
        name: "net.ipv4.tcp_synack_retries",
        meaning: "number of SYN-ACK retransmits: with 5, a half-open handshake occupies a queue entry for 63 seconds. tcpguard \
                  sets it to 1 during an attack, and restores it",
        better: |value| (number(value) > 5).then_some("5"),
        is_matter_of_taste: false,
    },
    Setting {
        name: "net.ipv4.conf.all.rp_filter",
        meaning: "1 drops packets that arrive on an interface over which their source is not routed. This stops spoofed addresses \
                  of networks behind other interfaces, but not of the Internet at large. Leave it at 0 with asymmetric routing",
        better: |value| (value == "0").then_some("1"),
        is_matter_of_taste: true,
    },
    Setting {
        name: "net.ipv4.tcp_l3mdev_accept",
        meaning: "1 lets a listener outside a VRF accept connections from inside it; those are not challenged with cookies",
        // No advice, because listeners may depend on it.
        better: |_| None,
        is_matter_of_taste: true,
    },
    Setting {
        name: "kernel.bpf_stats_enabled",
        meaning: "1 makes the kernel measure the run time of BPF programs, for the dashboard and /metrics, at a small cost per packet",
        better: |_| None,
        is_matter_of_taste: true,
    },
];

pub(super) fn examine(config: &Config) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        SETTINGS.iter().filter_map(|setting| examine_one(setting, read(setting.name))).collect();
    if config.syn_attack_protect == 0 {
        let changed = ["net.ipv4.tcp_synack_retries", "net.ipv4.tcp_syncookies"];
        for finding in findings.iter_mut().filter(|finding| changed.contains(&finding.name.as_str())) {
            finding.meaning.push_str(" (not with syn_attack_protect = 0)");
        }
    }
    findings
}

fn examine_one(setting: &Setting, value: io::Result<String>) -> Option<Finding> {
    // This kernel has no such setting, or it is not readable.
    let value = value.ok()?;
    let finding = Finding::new(AREA, setting.name, &value, setting.meaning);
    Some(match (setting.better)(&value) {
        None => finding,
        Some(better) => {
            let command = format!("sysctl -w {}={better}", setting.name);
            let status = if setting.is_matter_of_taste { Status::Note } else { Status::Fix };
            Finding { status, fix: Some(command), ..finding }
        }
    })
}

fn read(name: &str) -> io::Result<String> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    fs::read_to_string(path).map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(name: &str, value: &str) -> Finding {
        let setting = SETTINGS.iter().find(|setting| setting.name == name).expect("such a setting");
        examine_one(setting, Ok(value.to_owned())).expect("a finding")
    }

    #[test]
    fn what_should_be_changed_has_a_command() {
        for (name, bad, good) in [
            ("net.ipv4.tcp_syncookies", "0", "1"),
            ("net.ipv4.tcp_timestamps", "0", "2"),
            ("net.core.somaxconn", "128", "4096"),
            ("net.ipv4.tcp_synack_retries", "9", "5"),
        ] {
            let found = finding(name, bad);
            assert_eq!(found.status, Status::Fix, "{name}");
            assert!(found.fix.is_some_and(|fix| fix.starts_with(&format!("sysctl -w {name}="))), "{name}");
            assert_eq!((finding(name, good).status, finding(name, good).fix), (Status::Good, None), "{name}");
        }
    }

    #[test]
    fn what_tcpguard_sets_itself_is_well() {
        for (name, value) in
            [("net.ipv4.tcp_syncookies", "2"), ("net.ipv4.tcp_timestamps", "2"), ("net.ipv4.tcp_synack_retries", "1")]
        {
            assert_eq!(finding(name, value).status, Status::Good, "{name}");
        }
    }

    #[test]
    fn a_matter_of_taste_is_nothing_to_fix() {
        assert_eq!(finding("net.ipv4.conf.all.rp_filter", "0").status, Status::Note);
        assert_eq!(finding("net.ipv4.tcp_max_syn_backlog", "128").status, Status::Note);
    }
}

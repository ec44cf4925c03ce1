//! The kernel's settings that matter in a SYN flood.

use std::{fs, io};

use super::{Finding, Status};
use crate::config::Config;

const AREA: &str = "setting";

/// One of them.
struct Setting {
    name: &'static str,
    /// What it does here.
    meaning: &'static str,
    /// What it should be instead of this value; `None` where it is well as it is.
    better: fn(&str) -> Option<&'static str>,
    /// Whether a different value is but worth knowing.
    is_matter_of_taste: bool,
}

fn number(value: &str) -> i64 {
    value.parse().unwrap_or(0)
}

const SETTINGS: &[Setting] = &[
    Setting {
        name: "net.ipv4.tcp_syncookies",
        meaning: "1: the kernel answers with cookies when a backlog is full, the last resort where XDP lets too much through. \
                  tcpguard sets it to 2 while it sends cookies itself, and back",
        better: |value| (value == "0").then_some("1"),
        is_matter_of_taste: false,
    },
    Setting {
        name: "net.ipv4.tcp_timestamps",
        meaning: "without timestamps a connection that a cookie made has no window scaling: slow over long ways. tcpguard sets it to \
                  2 while it sends cookies, and back",
        better: |value| (value == "0").then_some("1"),
        is_matter_of_taste: false,
    },
    Setting {
        name: "net.core.somaxconn",
        meaning: "the largest backlog that an application can have: what it asks for is cut to this",
        better: |value| (number(value) < 1024).then_some("4096"),
        is_matter_of_taste: false,
    },
    Setting {
        name: "net.ipv4.tcp_max_syn_backlog",
        meaning: "bounds half-open handshakes only while tcp_syncookies is 0; otherwise the listener's backlog does",
        better: |value| (number(value) < 1024).then_some("4096"),
        is_matter_of_taste: true,
    },
    Setting {
        name: "net.ipv4.tcp_synack_retries",
        meaning: "how often a SYN-ACK is sent again: with 5 a half-open handshake takes up room for 63 seconds. tcpguard sets it to \
                  1 in an attack, and back",
        better: |value| (number(value) > 5).then_some("5"),
        is_matter_of_taste: false,
    },
    Setting {
        name: "net.ipv4.conf.all.rp_filter",
        meaning: "1 drops what comes by an interface that its source is not reached by: forged addresses of networks behind another \
                  interface, but not those of the Internet at large. Leave it where answers go by another way than requests come",
        better: |value| (value == "0").then_some("1"),
        is_matter_of_taste: true,
    },
    Setting {
        name: "net.ipv4.tcp_l3mdev_accept",
        meaning: "1 lets a listener outside of a VRF take connections from inside: those are not challenged by cookies",
        // Listeners may depend on it: what it means is said, and no more.
        better: |_| None,
        is_matter_of_taste: true,
    },
    Setting {
        name: "kernel.bpf_stats_enabled",
        meaning: "1 has the kernel measure what the programs cost, for the dashboard and /metrics, which costs a little with each packet",
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
    // A kernel that lacks it does without.
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

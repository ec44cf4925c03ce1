//! Checks of the configuration: whether it is valid, and settings with surprising effects.

use std::{io, path::Path};

use super::Finding;
use crate::{
    config::{ChallengeMode, Config},
    kernel::Listener,
};

const AREA: &str = "configuration";

pub(super) fn examine(
    file: Option<&Path>,
    loaded: &Result<Config, String>,
    listeners: &io::Result<Vec<Listener>>,
) -> Vec<Finding> {
    let name = file.map_or_else(|| "defaults".to_owned(), |file| file.display().to_string());
    let meaning = "the configuration file; `tcpguard check` prints the effective configuration";
    let config = match loaded {
        Ok(config) => config,
        Err(problem) => {
            return vec![Finding::new(AREA, name, problem, meaning).fix("correct the file, then run `tcpguard check`")];
        }
    };
    let mut findings = vec![Finding::new(AREA, name, "valid", meaning)];
    findings.push(level(config));
    if config.challenge.mode == ChallengeMode::Never {
        let meaning = "spoofed floods are not challenged: only the kernel's own SYN cookies protect against them";
        findings.push(Finding::new(AREA, "challenge.mode", "never", meaning).note());
    }
    if !config.listen.http.ip().is_loopback() {
        let meaning = "every host that can reach this address can read tcpguard's data without a password";
        findings.push(Finding::new(AREA, "listen.http", config.listen.http, meaning).note());
    }
    findings.extend(services(config, listeners));
    findings.extend(config.lists.deny_files.iter().filter(|file| !file.exists()).map(|file| {
        let meaning = "its networks are denied once the file exists";
        Finding::new(AREA, format!("deny file {}", file.display()), "not there", meaning)
            .fix("create the file, or remove it from lists.deny_files")
    }));
    findings
}

fn level(config: &Config) -> Finding {
    let meaning = "protection level: 0 only observes, 1 changes kernel settings during an attack, 2 also drops and challenges packets";
    let finding = Finding::new(AREA, "syn_attack_protect", config.syn_attack_protect, meaning);
    if config.syn_attack_protect == 2 { finding } else { finding.note() }
}

/// Returns findings on service ports without a listener.
fn services(config: &Config, listeners: &io::Result<Vec<Listener>>) -> Vec<Finding> {
    let Ok(listeners) = listeners else { return Vec::new() };
    let is_open = |port: &u16| listeners.iter().any(|listener| listener.local.port() == *port);
    let closed = config.services.iter().flat_map(|service| &service.ports).filter(|port| !is_open(port));
    let meaning = "the port has a threshold of its own, but no listener in this network namespace";
    closed.map(|port| Finding::new(AREA, format!("service port {port}"), "no listener", meaning).note()).collect()
}

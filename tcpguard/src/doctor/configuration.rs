//! The configuration: whether it is sound, and what of it may surprise.

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
    let meaning = "what tcpguard goes by; `tcpguard check` prints what is in effect";
    let config = match loaded {
        Ok(config) => config,
        Err(problem) => {
            return vec![Finding::new(AREA, name, problem, meaning).fix("correct the file, then `tcpguard check`")];
        }
    };
    let mut findings = vec![Finding::new(AREA, name, "sound", meaning)];
    findings.push(level(config));
    if config.challenge.mode == ChallengeMode::Never {
        let meaning = "forged floods are not answered with cookies: the kernel's own have to do";
        findings.push(Finding::new(AREA, "challenge.mode", "never", meaning).note());
    }
    if !config.listen.http.ip().is_loopback() {
        let meaning = "whoever reaches this address can read what tcpguard knows, without a password";
        findings.push(Finding::new(AREA, "listen.http", config.listen.http, meaning).note());
    }
    findings.extend(services(config, listeners));
    findings.extend(config.lists.deny_files.iter().filter(|file| !file.exists()).map(|file| {
        let meaning = "its networks are denied once it is there";
        Finding::new(AREA, format!("deny file {}", file.display()), "not there", meaning)
            .fix("make the file, or take it out of lists.deny_files")
    }));
    findings
}

fn level(config: &Config) -> Finding {
    let meaning = "what may be done: 0 nothing, 1 kernel measures in an attack, 2 these and XDP";
    let finding = Finding::new(AREA, "syn_attack_protect", config.syn_attack_protect, meaning);
    if config.syn_attack_protect == 2 { finding } else { finding.note() }
}

/// Services that nobody listens for.
fn services(config: &Config, listeners: &io::Result<Vec<Listener>>) -> Vec<Finding> {
    let Ok(listeners) = listeners else { return Vec::new() };
    let is_open = |port: &u16| listeners.iter().any(|listener| listener.local.port() == *port);
    let closed = config.services.iter().flat_map(|service| &service.ports).filter(|port| !is_open(port));
    let meaning = "it has thresholds of its own, but nothing listens there (in this network namespace)";
    closed.map(|port| Finding::new(AREA, format!("service port {port}"), "no listener", meaning).note()).collect()
}

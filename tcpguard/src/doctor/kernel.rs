//! Checks of the kernel's features, by loading the datapath.

use std::fs;

use super::Finding;
use crate::{
    config::Config,
    datapath::{Datapath, DatapathOptions, Feature},
};

const AREA: &str = "kernel";
const JIT: &str = "/proc/sys/net/core/bpf_jit_enable";
/// Size of the source table: a trial needs few entries.
const FEW_SOURCES: u32 = 1024;
const UNPRIVILEGED: &str = "only root can read this setting";

pub(super) fn examine() -> Vec<Finding> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut findings = vec![Finding::new(
        AREA,
        "release",
        release.trim(),
        "kernel release, which determines the features; 5.15 and later are known to work",
    )];
    findings.extend(jit());
    let options = DatapathOptions { max_sources: FEW_SOURCES, pins: None, ..DatapathOptions::of(&Config::default()) };
    let datapath = match Datapath::load(&options) {
        Ok((datapath, _)) => datapath,
        Err(error) => {
            let fix =
                if nix::unistd::geteuid().is_root() { error.to_string() } else { "sudo tcpguard doctor".to_owned() };
            findings.push(Finding::new(AREA, "datapath", "cannot be loaded", error.to_string()).fix(fix));
            return findings;
        }
    };
    findings.push(Finding::new(AREA, "datapath", "can be loaded", "the verifier accepts every program of this binary"));
    let features = &datapath.features;
    findings.push(feature(
        ("completions", &features.completions),
        "observes completed handshakes, which blocks of sources are based on",
        "use a kernel with BTF (CONFIG_DEBUG_INFO_BTF=y): Debian's and Ubuntu's have it",
    ));
    findings.push(feature(
        ("retries", &features.retries),
        "observes SYN-ACK retransmits per source",
        "use a kernel with BTF (CONFIG_DEBUG_INFO_BTF=y): Debian's and Ubuntu's have it",
    ));
    findings.push(feature(
        ("cookies", &features.cookies),
        "answers SYNs with cookies from XDP; without it, first SYNs are dropped and retransmitted by the client",
        "use Linux 6.0 or later",
    ));
    findings
}

fn feature((name, feature): (&'static str, &Feature), meaning: &str, fix: &str) -> Finding {
    match feature.problem() {
        None => Finding::new(AREA, name, "available", meaning),
        Some(problem) => Finding::new(AREA, name, format!("not available: {problem}"), meaning).fix(fix),
    }
}

/// Checks whether BPF programs are compiled to machine code.
fn jit() -> Option<Finding> {
    // Kernels on which this cannot be changed do not have the setting.
    let value = match fs::read_to_string(JIT) {
        Ok(value) => value,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return Some(Finding::new(AREA, "net.core.bpf_jit_enable", "not readable", UNPRIVILEGED).note());
        }
        Err(_) => return None,
    };
    let meaning = "compiles BPF programs to machine code; without it, each packet costs many times as much";
    let finding = Finding::new(AREA, "net.core.bpf_jit_enable", value.trim(), meaning);
    Some(finding.fix_if(value.trim() == "0", "sysctl -w net.core.bpf_jit_enable=1"))
}

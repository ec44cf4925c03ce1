//! The daemon: whether it runs, and what it says of itself.

use std::path::Path;

use super::{Daemon, Finding};
use crate::api::model::Stats;

const AREA: &str = "daemon";
/// A snapshot that comes later than this is no use.
const LATE_SECONDS: f64 = 1.0;

pub(super) fn examine(socket: &Path, daemon: &Daemon) -> Vec<Finding> {
    let finding = |value: String, meaning: &str| Finding::new(AREA, "tcpguard", value, meaning);
    let stats = match daemon {
        Daemon::Answers(stats) => stats,
        Daemon::Absent => {
            let value = format!("does not run: nobody listens at {}", socket.display());
            let meaning = "nothing is guarded while it does not run";
            return vec![finding(value, meaning).fix("tcpguard run (or: systemctl start tcpguard)")];
        }
        Daemon::Forbidden => {
            let value = format!("not known: {} may not be opened", socket.display());
            return vec![finding(value, "only root, and the socket's group, may ask it").fix("sudo tcpguard doctor")];
        }
        Daemon::Unwell(problem) => {
            let meaning = "it listens, but does not answer as it should";
            return vec![finding(problem.clone(), meaning).fix("look into its log: journalctl -u tcpguard")];
        }
    };
    let mut findings =
        vec![Finding::new(AREA, "tcpguard", format!("{}, {}", stats.version, stats.state), "it runs and answers")];
    findings.push(version(stats));
    let late = stats.cost.longest_tick_delay_seconds;
    let meaning =
        "by how much a snapshot came too late within a minute; after limits.heartbeat_timeout everything is let in";
    findings.push(Finding::new(AREA, "beat", format!("at most {:.0} ms late", late * 1000.0), meaning).fix_if(
        late > LATE_SECONDS,
        "give the host more processor time, or the service a higher priority (systemd: Nice=-5)",
    ));
    for port in &stats.measures.challenge.left_alone {
        let name = format!("port {}", port.port);
        let meaning = "it should be challenged, and is not";
        findings.push(Finding::new(AREA, name, &port.reason, meaning).note());
    }
    let meaning = "what would make backlogs large enough for what came";
    findings.extend(
        stats.measures.advice.iter().map(|advice| Finding::new(AREA, "backlog", "too small", meaning).fix(advice)),
    );
    findings
}

fn version(stats: &Stats) -> Finding {
    let ours = env!("CARGO_PKG_VERSION");
    let meaning = "the version that runs, and that of this command";
    Finding::new(AREA, "version", format!("{} and {ours}", stats.version), meaning)
        .fix_if(stats.version != ours, "systemctl restart tcpguard")
}

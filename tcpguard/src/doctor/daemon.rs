//! Checks of the daemon: whether it runs and answers, and the problems it reports.

use std::path::Path;

use bytesize::ByteSize;

use super::{Daemon, Finding};
use crate::api::model::Stats;

const AREA: &str = "daemon";
/// How many maps are named.
const LARGEST: usize = 5;
/// Delay of an observation, in seconds, above which it is a problem.
const LATE_SECONDS: f64 = 1.0;

pub(super) fn examine(socket: &Path, daemon: &Daemon) -> Vec<Finding> {
    let finding = |value: String, meaning: &str| Finding::new(AREA, "tcpguard", value, meaning);
    let stats = match daemon {
        Daemon::Answers(stats) => stats,
        Daemon::Absent => {
            let value = format!("does not run: nobody listens at {}", socket.display());
            let meaning = "no interface is guarded while the daemon does not run";
            return vec![finding(value, meaning).fix("tcpguard run (or: systemctl start tcpguard)")];
        }
        Daemon::Forbidden => {
            let value = format!("not known: no permission to open {}", socket.display());
            return vec![
                finding(value, "only root and the socket's group can query the daemon").fix("sudo tcpguard doctor"),
            ];
        }
        Daemon::Unwell(problem) => {
            let meaning = "the daemon listens, but does not answer correctly";
            return vec![finding(problem.clone(), meaning).fix("check its log: journalctl -u tcpguard")];
        }
    };
    let mut findings =
        vec![Finding::new(AREA, "tcpguard", format!("{}, {}", stats.version, stats.state), "it runs and answers")];
    findings.push(version(stats));
    let late = stats.cost.longest_tick_delay_seconds;
    let meaning = "longest delay of a tick in the last minute; after limits.heartbeat_timeout the lease expires and every packet passes";
    findings.push(Finding::new(AREA, "beat", format!("at most {:.0} ms late", late * 1000.0), meaning).fix_if(
        late > LATE_SECONDS,
        "give the host more CPU time, or the service a higher priority (systemd: Nice=-5)",
    ));
    let meaning = "memory of the datapath's maps, and its maximum (limits.memory)";
    let [used, limit] = [stats.memory.bytes, stats.memory.limit_bytes].map(|bytes| ByteSize::b(bytes).display().iec());
    let items = stats.memory.largest(LARGEST);
    findings.push(Finding::new(AREA, "memory", format!("{used} of {limit}: {items}, …"), meaning));
    for port in &stats.measures.challenge.left_alone {
        let name = format!("port {}", port.port);
        let meaning = "the port should be challenged, but is not";
        findings.push(Finding::new(AREA, name, &port.reason, meaning).note());
    }
    let meaning = "backlogs were too small for the load; the fix makes them large enough";
    findings.extend(
        stats.measures.advice.iter().map(|advice| Finding::new(AREA, "backlog", "too small", meaning).fix(advice)),
    );
    findings
}

fn version(stats: &Stats) -> Finding {
    let ours = env!("CARGO_PKG_VERSION");
    let meaning = "versions of the running daemon and of this command";
    Finding::new(AREA, "version", format!("{} and {ours}", stats.version), meaning)
        .fix_if(stats.version != ours, "systemctl restart tcpguard")
}

//! The daemon: whether it runs, and what it says of itself.

use super::Finding;
use crate::{api::model::Stats, config::Config};

const AREA: &str = "daemon";
/// A snapshot that comes later than this is no use.
const LATE_SECONDS: f64 = 1.0;

pub(super) fn examine(config: &Config, stats: Option<&Stats>) -> Vec<Finding> {
    let Some(stats) = stats else {
        let meaning = "nothing is guarded while it does not run";
        let value = format!("does not answer at {}", config.listen.socket.display());
        return vec![Finding::new(AREA, "tcpguard", value, meaning).fix("tcpguard run (or: systemctl start tcpguard)")];
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

//! The daemon's cost: CPU, memory and response time.

use std::{
    net::IpAddr,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::Result;
use lab::{Daemon, Flood, FloodSpec, Lab, Setup, Sources, network::SERVER_INTERFACE};

use super::{
    Effort,
    host::{Used, measure},
};

pub fn costs(effort: &Effort) -> Result<()> {
    let lab = Lab::new()?;
    // A burst may fill a quarter of the table at once, so the table has four times as many entries.
    let config = format!(
        "interfaces = [\"{SERVER_INTERFACE}\"]\nsyn_attack_protect = 0\n[limits]\nmax_sources = {}",
        4 * (effort.tracked_sources + 1024)
    );
    let daemon = Setup::new(&lab)?.config(&config).start()?;
    let idle = watch(&daemon, effort.watch)?;
    let first: IpAddr = [0x2001, 0xdb8, 7, 0, 0, 0, 0, 0].into();
    let mut flood = Flood::new(&lab, &FloodSpec::syn(Sources::InTurn(first, effort.tracked_sources.into()), 9))?;
    flood.send_at(40_000, Duration::from_secs_f64(f64::from(effort.tracked_sources) / 40_000.0))?;
    // The daemon takes up to five seconds for a round over the table.
    sleep(Duration::from_secs(6).min(effort.watch));
    let busy = watch(&daemon, effort.watch)?;
    let tracked = daemon.stats()?.tracking.sources;
    println!("Cost of the daemon");
    println!("{:<36} {:>12} {:>16}", "", "no sources", format!("{tracked} sources"));
    println!("{:<36} {:>12.2} {:>16.2}   limit 3.00", "CPU, percent of one core", idle.cpu_percent, busy.cpu_percent);
    println!("{:<36} {:>12.1} {:>16.1}   limit 64.0", "resident memory, MiB", idle.resident_mib, busy.resident_mib);
    println!(
        "{:<36} {:>12.1} {:>16.1}   limit 50.0",
        "GET /sources?limit=20, ms, maximum", idle.sources_ms, busy.sources_ms
    );
    Ok(())
}

struct Usage {
    cpu_percent: f64,
    resident_mib: f64,
    sources_ms: f64,
}

fn watch(daemon: &Daemon, duration: Duration) -> Result<Usage> {
    let Used { percent: cpu_percent, resident_mib } = measure(daemon, duration)?;
    let mut sources_ms = 0.0f64;
    for _ in 0..20 {
        let start = Instant::now();
        daemon.json("/sources?limit=20")?;
        sources_ms = sources_ms.max(start.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(Usage { cpu_percent, resident_mib, sources_ms })
}

//! Records the observations during two real attacks, for the simulation of a day
//! (`tcpguard/src/response/simulation.rs`): `cargo run -p tests --bin record DIRECTORY`.

use std::{path::Path, thread, time::Duration};

use anyhow::{Context, Result};
use lab::{Client, Flood, FloodSpec, Lab, Setup, Sources, network::SERVER_INTERFACE, scene::WEB, server::Nginx};
use nix::sys::signal::Signal;

fn main() -> Result<()> {
    let folder = std::env::args().nth(1).context("expected a directory as argument")?;
    let concentrated = Sources::InTurn("198.18.1.1".parse()?, 5);
    for (name, sources) in [("concentrated", concentrated), ("spoofed", Sources::RANDOM_IPV4)] {
        record(&Path::new(&folder).join(format!("{name}.jsonl")), sources)?;
    }
    Ok(())
}

/// Records two calm seconds, six seconds of a flood with a client in parallel, and the time until it is calm again.
fn record(file: &Path, sources: Sources) -> Result<()> {
    std::fs::remove_file(file).ok();
    let lab = Lab::new()?;
    let _nginx = Nginx::start(&lab, &[80])?;
    let config = format!("interfaces = [\"{SERVER_INTERFACE}\"]\n[thresholds]\nhold = \"3s\"");
    let setup = Setup::new(&lab)?.config(&config).environment("TCPGUARD_RECORD", &file.to_string_lossy());
    let mut daemon = setup.start()?;
    thread::sleep(Duration::from_secs(2));
    let mut flood = Flood::new(&lab, &FloodSpec::syn(sources, 80))?;
    flood.during(20_000, || Client::new(&lab).run(WEB, 20, Duration::from_secs(6), || true).map(drop))?;
    daemon.stats_when("it is calm again", |stats| stats.state == "calm")?;
    daemon.end(Signal::SIGTERM).map(drop)
}

//! `cargo xtask bench`: the cost of a packet and of the daemon. Every number is shown next to one from the same run
//! that it can be compared with.

mod daemon;
mod defence;
mod gateway;
mod host;
mod packets;
mod places;
mod spoofed;
mod strays;
mod transfer;
mod ways;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;

/// Measures tcpguard's cost
#[derive(Parser)]
struct Arguments {
    /// Use few repetitions, to check that the benchmark runs; the results are not meaningful
    #[arg(long)]
    short: bool,
    /// Run only packets whose description contains TEXT, or one of places, host, floods, gateway, strays, transfer and ways; may be repeated. After host, more of them choose among its rows
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Hold idle connections to this port, for the benchmark itself
    #[arg(long, hide = true)]
    hold: Option<u16>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(port) = arguments.hold {
        return host::hold(port);
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot create a runtime")?;
    let _entered = runtime.enter();
    let effort = if arguments.short { Effort::SHORT } else { Effort::FULL };
    match arguments.only.as_slice() {
        [only] if only == "places" => return places::costs(&effort),
        [only, rows @ ..] if only == "host" => return host::costs(&effort, rows),
        [only] if only == "floods" => return floods(&effort),
        [only] if only == "gateway" => return gateway::compare(&effort),
        [only] if only == "strays" => return strays::compare(&effort),
        [only] if only == "transfer" => return transfer::compare(&effort),
        [only] if only == "ways" => return ways::costs(&effort),
        _ => {}
    }
    if !arguments.only.is_empty() {
        return packets::costs(&effort, &arguments.only);
    }
    in_turn(&[
        ("packets", &|| packets::costs(&effort, &[])),
        ("places", &|| places::costs(&effort)),
        ("the daemon", &|| daemon::costs(&effort)),
        ("hosts", &|| host::costs(&effort, &[])),
        ("floods", &|| floods(&effort)),
        ("a gateway", &|| gateway::compare(&effort)),
        ("strays", &|| strays::compare(&effort)),
        ("a transfer", &|| transfer::compare(&effort)),
        ("ways", &|| ways::costs(&effort)),
    ])
}

fn floods(effort: &Effort) -> Result<()> {
    in_turn(&[
        ("a flood from one source", &|| defence::compare(effort)),
        ("floods from random sources", &|| spoofed::compare(effort)),
    ])
}

/// A part of the benchmark, with its name.
type Part<'a> = (&'a str, &'a dyn Fn() -> Result<()>);

/// Runs every part, also where an earlier one fails: the others have taken their time for nothing otherwise.
fn in_turn(parts: &[Part<'_>]) -> Result<()> {
    let mut failed = Vec::new();
    for (name, part) in parts {
        if let Err(error) = part() {
            println!("{name}: {error:#}");
            failed.push(*name);
        }
    }
    ensure!(failed.is_empty(), "not measured: {}", failed.join(", "));
    Ok(())
}

struct Effort {
    repeat: u32,
    rounds: usize,
    tracked_sources: u32,
    watch: Duration,
    flood: Duration,
    /// How long the daemon may take to become calm after a start, and to notice what it found.
    settles: Duration,
    /// How long a scan of all ports lasts.
    scan: Duration,
    transfer: usize,
    /// Processes that hold idle connections.
    holders: u16,
    /// Clients that connect for the first time.
    new_clients: usize,
    /// How many of the ways between clients and servers are measured at most.
    ways: usize,
    /// Clients that connect over each.
    clients_of_ways: u8,
}

impl Effort {
    const FULL: Self = Self {
        repeat: 2_000_000,
        rounds: 7,
        tracked_sources: 200_000,
        watch: Duration::from_secs(20),
        flood: Duration::from_secs(20),
        settles: Duration::from_secs(4),
        // By chance each port gets twenty SYNs.
        scan: Duration::from_secs(13),
        transfer: 100_000_000,
        holders: 32,
        new_clients: 500,
        ways: usize::MAX,
        clients_of_ways: 200,
    };
    const SHORT: Self = Self {
        repeat: 50_000,
        rounds: 3,
        tracked_sources: 5_000,
        watch: Duration::from_secs(1),
        flood: Duration::from_secs(1),
        settles: Duration::from_secs(1),
        scan: Duration::from_secs(2),
        transfer: 10_000_000,
        holders: 1,
        new_clients: 20,
        ways: 1,
        clients_of_ways: 10,
    };
}

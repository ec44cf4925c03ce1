//! `cargo xtask demo`: a web server, its clients and a flood, and what tcpguard sees of them.

use std::{
    net::{IpAddr, SocketAddr},
    panic::resume_unwind,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use lab::{
    Client, Connections, Daemon, Flood, FloodSpec, Lab, Setup, Sources,
    daemon::tcpguard,
    network::{SERVER_INTERFACE, SERVER_IPV4},
    server::Nginx,
};
use serde_json::Value;

const CLIENT_RATE: u32 = 100;
const FLOOD_RATE: u32 = 100_000;
const PHASE: Duration = Duration::from_secs(5);
const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(SERVER_IPV4), 80);

fn main() -> Result<()> {
    say("A lab is set up: two network namespaces with a cable between them, without any uplink.");
    let lab = Lab::new()?;
    let _nginx = Nginx::start(&lab, &[80])?;
    say(&format!(
        "In one of them nginx serves port 80 of {SERVER_IPV4}; in the other live its clients, and later a flood."
    ));
    let daemon = Setup::new(&lab)?.start()?;
    say("tcpguard guards the server's end of the cable. From another shell you can look as well:");
    println!("    target/release/tcpguard status --socket {}", daemon.socket().display());

    let calm = calm(&lab, &daemon)?;
    half_open(&lab, &daemon)?;
    let flood = flood(&lab, &daemon)?;
    drop(daemon);
    let unwatched = flood_without_tcpguard(&lab)?;
    conclude(&[calm, flood, unwatched]);
    Ok(())
}

/// One line of the closing table.
struct Phase {
    name: &'static str,
    sent: u64,
    counted: Option<u64>,
    client: Connections,
}

fn calm(lab: &Lab, daemon: &Daemon) -> Result<Phase> {
    headline(&format!("1. Calm: a client opens {CLIENT_RATE} connections a second"));
    let client = Client::new(lab).run(SERVER, CLIENT_RATE, PHASE, || true)?;
    let stats = daemon
        .stats_when("the client's handshakes are counted", |stats| stats["totals"]["completed"] == client.served())?;
    say(&format!(
        "The client opened {} connections. tcpguard counted {} SYNs and {} completed handshakes; {} are half open.",
        client.served(),
        stats["totals"]["syn"],
        stats["totals"]["completed"],
        stats["half_open"]["datapath"]
    ));
    show(daemon, &["status"])?;
    Ok(Phase { name: "calm", sent: u64::from(client.tried), counted: stats["totals"]["syn"].as_u64(), client })
}

fn half_open(lab: &Lab, daemon: &Daemon) -> Result<()> {
    headline("2. Some sources begin handshakes and never end them");
    for (source, syns) in [("198.18.1.1", 120), ("198.18.1.2", 60), ("198.18.7.7", 30)] {
        Flood::new(lab, &FloodSpec::syn(Sources::InTurn(source.parse()?, 1), 80))?.send(syns)?;
    }
    let stats = daemon.stats_when("all are counted, by the datapath and by the kernel", |stats| {
        stats["half_open"]["datapath"] == 210 && stats["half_open"]["kernel"] == 210
    })?;
    say(&format!(
        "210 SYNs were sent that nobody will complete. The kernel holds {} of them in SYN_RECV; tcpguard's own count is {}.",
        stats["half_open"]["kernel"], stats["half_open"]["datapath"]
    ));
    say("Who that is, with the busy client for comparison (its handshakes complete):");
    show(daemon, &["sources", "--sort", "half-open"])?;
    say("And what `tcpguard half-open` says of the kernel's rows (its last lines):");
    let output = tcpguard(&["half-open"], &daemon.socket())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    print(&lines[lines.len().saturating_sub(3)..].join("\n"));
    Ok(())
}

fn flood(lab: &Lab, daemon: &Daemon) -> Result<Phase> {
    headline(&format!("3. A flood: {FLOOD_RATE} SYNs a second from random sources, and the client goes on"));
    let before = syn_total(&daemon.json("/stats")?);
    let (sent, client, during) = attack(lab, || daemon.json("/stats"))?;
    if let Some(stats) = during {
        say(&format!(
            "In the midst of it tcpguard sees {:.0} SYN/s from about {:.0} sources/s, and {:.0} handshakes completed/s.",
            stats["rates"]["syn_per_second"].as_f64().unwrap_or(0.0),
            stats["rates"]["distinct_sources_per_second"].as_f64().unwrap_or(0.0),
            stats["rates"]["completed_per_second"].as_f64().unwrap_or(0.0)
        ));
        say(&format!(
            "The kernel shows {} half-open handshakes and has sent {} SYN cookies: what it answers by cookie it does not \
             remember. tcpguard's own count is {}.",
            stats["half_open"]["kernel"], stats["tcp_ext"]["syncookies_sent"], stats["half_open"]["datapath"]
        ));
    }
    let least = sent + u64::from(client.tried);
    let stats = daemon.stats_when("every SYN of the flood is counted", |stats| syn_total(stats) - before >= least)?;
    let counted = syn_total(&stats) - before;
    say(&format!(
        "{sent} SYNs of the flood were sent, and the client tried {} connections: {least} SYNs, of which {counted} were \
         counted{}. The source table has {} of {} entries in use.",
        client.tried,
        if counted > least { " (the client's kernel sent some again)" } else { "" },
        stats["tracking"]["sources"],
        stats["tracking"]["max_sources"]
    ));
    Ok(Phase { name: "flood, tcpguard watching", sent: least, counted: Some(counted), client })
}

fn flood_without_tcpguard(lab: &Lab) -> Result<Phase> {
    headline("4. The same flood without tcpguard, to compare");
    lab.receive_without_daemon()?;
    let (sent, client, _) = attack(lab, || Ok(Value::Null))?;
    say(&format!(
        "{sent} SYNs were sent; of {} connections that the client tried, {} were served.",
        client.tried,
        client.served()
    ));
    Ok(Phase { name: "flood, without tcpguard", sent: sent + u64::from(client.tried), counted: None, client })
}

/// Flood and client at once; `look` is called in the midst of it.
fn attack(lab: &Lab, look: impl Fn() -> Result<Value>) -> Result<(u64, Connections, Option<Value>)> {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let client =
            scope.spawn(|| Client::new(lab).run(SERVER, CLIENT_RATE, PHASE * 2, || !is_over.load(Ordering::Relaxed)));
        let flood = scope.spawn(|| -> Result<u64> {
            let spec = FloodSpec::syn(Sources::RANDOM_IPV4, 80);
            let sent = Flood::new(lab, &spec).and_then(|mut flood| flood.send_at(FLOOD_RATE, PHASE));
            is_over.store(true, Ordering::Relaxed);
            sent
        });
        thread::sleep(PHASE / 2);
        let during = look().ok();
        let sent = flood.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        let client = client.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        Ok((sent, client, during))
    })
}

fn conclude(phases: &[Phase]) {
    headline("What was sent, what was counted, and what the client saw");
    println!(
        "{:<27} {:>10} {:>13} {:>14} {:>16} {:>13}",
        "", "SYNs sent", "SYNs counted", "client served", "connect, median", "connect, 99 %"
    );
    for phase in phases {
        println!(
            "{:<27} {:>10} {:>13} {:>12.1} % {:>13.1} ms {:>10.1} ms",
            phase.name,
            phase.sent,
            phase.counted.map_or_else(|| "-".to_owned(), |counted| counted.to_string()),
            phase.client.share() * 100.0,
            milliseconds(phase.client.quantile(0.5)),
            milliseconds(phase.client.quantile(0.99))
        );
    }
    println!("\nThis version watches and counts; it drops nothing yet. The lab is gone: {SERVER_INTERFACE} and all.");
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn syn_total(stats: &Value) -> u64 {
    stats["totals"]["syn"].as_u64().unwrap_or(0)
}

fn show(daemon: &Daemon, arguments: &[&str]) -> Result<()> {
    let output = tcpguard(arguments, &daemon.socket()).context("cannot run tcpguard")?;
    print(&String::from_utf8_lossy(&output.stdout));
    Ok(())
}

fn print(text: &str) {
    for line in text.lines() {
        println!("    {line}");
    }
}

fn say(text: &str) {
    println!("{text}");
}

fn headline(text: &str) {
    println!("\n{text}\n{}", "-".repeat(text.len()));
}

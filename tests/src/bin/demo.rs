//! `cargo xtask demo`: a web server, its clients and a flood, and what tcpguard sees of them.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    panic::resume_unwind,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use lab::{
    Client, Connections, Daemon, Flood, FloodSpec, Lab, Setup, Sources,
    bridge::Bridge,
    daemon::tcpguard,
    network::{SECOND_CLIENT_INTERFACE, SECOND_SERVER_INTERFACE, SERVER_INTERFACE, SERVER_IPV4},
    oracle,
    server::Nginx,
};
use serde_json::Value;

const CLIENT_RATE: u32 = 100;
const FLOOD_RATE: u32 = 100_000;
/// Where the daemon listens, in its namespace.
const DASHBOARD: &str = "127.0.0.1:9477";
const PHASE: Duration = Duration::from_secs(5);
const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(SERVER_IPV4), 80);

fn main() -> Result<()> {
    say("A lab is set up: two network namespaces with two cables between them, without any uplink.");
    let lab = Lab::new()?;
    lab.lay_second_cable()?;
    let _nginx = Nginx::start(&lab, &[80])?;
    say(&format!(
        "In one of them nginx serves port 80 of {SERVER_IPV4}; in the other live its clients, and later a flood, which comes by the second cable."
    ));
    let config =
        format!("interfaces = [\"{SERVER_INTERFACE}\", \"{SECOND_SERVER_INTERFACE}\"]\n[thresholds]\nhold = \"3s\"");
    let daemon = Setup::new(&lab)?.config(&config).start()?;
    say("tcpguard guards the server's ends of the cables. From another shell you can look as well:");
    println!("    target/release/tcpguard status --socket {}", daemon.socket().display());
    println!("    target/release/tcpguard top --socket {}", daemon.socket().display());
    let dashboard = dashboard(&lab)?;
    if let Some((address, _)) = &dashboard {
        println!("and in a browser, while this runs: http://{address}/");
    }

    let calm = calm(&lab, &daemon)?;
    half_open(&lab, &daemon)?;
    let few = few_sources(&lab, &daemon)?;
    let random = random_sources(&lab, &daemon)?;
    drop((dashboard, daemon));
    let unguarded = flood_without_tcpguard(&lab)?;
    conclude(&[calm, few, random, unguarded]);
    Ok(())
}

/// Where the dashboard is to be seen from here: a door of this machine's loopback interface into the lab.
fn dashboard(lab: &Lab) -> Result<Option<(SocketAddr, Bridge)>> {
    let Ok(listener) = TcpListener::bind(DASHBOARD).or_else(|_| TcpListener::bind("127.0.0.1:0")) else {
        return Ok(None);
    };
    let address = listener.local_addr()?;
    let server = lab.server.clone();
    let bridge = Bridge::start(listener, move || server.within(|| Ok(TcpStream::connect(DASHBOARD)?)))?;
    Ok(Some((address, bridge)))
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

/// Ten sources that nothing is heard of but SYNs.
fn ten_sources() -> FloodSpec {
    FloodSpec::syn(Sources::InTurn(IpAddr::V4(Ipv4Addr::new(198, 18, 66, 1)), 10), 80)
}

fn few_sources(lab: &Lab, daemon: &Daemon) -> Result<Phase> {
    headline(&format!("3. A flood: {FLOOD_RATE} SYNs a second from ten sources, and the client goes on"));
    let (phase, during) = flood(lab, daemon, "flood from ten sources", &ten_sources())?;
    let passed = phase.sent - dropped(&daemon.json("/stats")?);
    say(&format!(
        "In the midst of it tcpguard says: {}, {}; {} sources are blocked. Of {} SYNs {passed} were let in.",
        during["state"].as_str().unwrap_or_default(),
        during["attack"]["kind"].as_str().unwrap_or_default(),
        during["measures"]["blocks"],
        phase.sent
    ));
    say("What happened, by `tcpguard events`:");
    show(daemon, &["events", "--limit", "6"])?;
    say("The attack is over once nothing of it has come for `hold`, three seconds here:");
    daemon.stats_when("it is calm again", |stats| stats["state"] == "calm")?;
    show(daemon, &["events", "--limit", "3"])?;
    Ok(phase)
}

fn random_sources(lab: &Lab, daemon: &Daemon) -> Result<Phase> {
    headline("4. The same from random sources, against which no list helps");
    let spec = FloodSpec::syn(Sources::RANDOM_IPV4, 80);
    let (phase, during) = flood(lab, daemon, "flood from random sources", &spec)?;
    say(&format!(
        "tcpguard calls it {}: {}. It answers with SYN cookies from XDP, {} until now, and remembers nothing of it; \
         who brings a cookie back is let in ({} were), and nobody is blocked.",
        during["attack"]["kind"].as_str().unwrap_or_default(),
        during["attack"]["evidence"].as_array().and_then(|evidence| evidence.last()?.as_str()).unwrap_or_default(),
        during["totals"]["challenged"],
        during["measures"]["challenge"]["cookies_returned"]
    ));
    Ok(phase)
}

/// A flood with the client beside it, and `/stats` from the midst of it.
fn flood(lab: &Lab, daemon: &Daemon, name: &'static str, spec: &FloodSpec) -> Result<(Phase, Value)> {
    let before = syn_total(&daemon.json("/stats")?);
    let by_client = oracle::syns_sent(&lab.client)?;
    let (sent, client, during) = attack(lab, spec, || daemon.json("/stats"))?;
    let least = sent + u64::from(client.tried);
    let stats = daemon.stats_when("every SYN of the flood is counted", |stats| syn_total(stats) - before >= least)?;
    let counted = Some(syn_total(&stats) - before);
    // Those among them that the client's kernel had to send again.
    let sent = sent + oracle::syns_sent(&lab.client)? - by_client;
    Ok((Phase { name, sent, counted, client }, during.unwrap_or_default()))
}

fn flood_without_tcpguard(lab: &Lab) -> Result<Phase> {
    headline("5. The flood from ten sources without tcpguard, to compare");
    lab.receive_without_daemon()?;
    let (sent, client, _) = attack(lab, &ten_sources(), || Ok(Value::Null))?;
    say(&format!(
        "{sent} SYNs were sent; of {} connections that the client tried, {} were served.",
        client.tried,
        client.served()
    ));
    Ok(Phase { name: "ten sources, unguarded", sent: sent + u64::from(client.tried), counted: None, client })
}

/// Flood and client at once; `look` is called in the midst of it.
fn attack(lab: &Lab, spec: &FloodSpec, look: impl Fn() -> Result<Value>) -> Result<(u64, Connections, Option<Value>)> {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let client =
            scope.spawn(|| Client::new(lab).run(SERVER, CLIENT_RATE, PHASE * 2, || !is_over.load(Ordering::Relaxed)));
        let flood = scope.spawn(|| -> Result<u64> {
            let sent = Flood::from_interface(&lab.client, SECOND_CLIENT_INTERFACE, spec)
                .and_then(|mut flood| flood.send_at(FLOOD_RATE, PHASE));
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
    println!("\nThe lab is gone: {SERVER_INTERFACE} and all.");
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn syn_total(stats: &Value) -> u64 {
    stats["totals"]["syn"].as_u64().unwrap_or(0)
}

fn dropped(stats: &Value) -> u64 {
    stats["totals"]["dropped"].as_u64().unwrap_or(0)
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

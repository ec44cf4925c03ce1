//! `cargo xtask demo`: a web server, a client and floods in a lab, and how tcpguard reacts.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    panic::resume_unwind,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lab::{
    Client, Connections, Daemon, Flood, FloodSpec, Lab, Setup, Sources, Stats,
    bridge::Bridge,
    daemon::tcpguard,
    network::{SECOND_CLIENT_INTERFACE, SECOND_SERVER_INTERFACE, SERVER_INTERFACE, SERVER_IPV4},
    oracle,
    server::Nginx,
};
use nix::sys::signal::Signal;

const CLIENT_RATE: u32 = 100;
const FLOOD_RATE: u32 = 100_000;
/// The daemon's HTTP address, in its namespace; also tried on the host.
const DASHBOARD: &str = "127.0.0.1:9477";
const PHASE: Duration = Duration::from_secs(5);
const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(SERVER_IPV4), 80);

fn main() -> Result<()> {
    say("Setting up a lab: two network namespaces joined by two veth pairs, without an uplink.");
    let lab = Lab::new()?;
    lab.lay_second_cable()?;
    let _nginx = Nginx::start(&lab, &[80])?;
    say(&format!(
        "One namespace runs nginx on {SERVER_IPV4} port 80; the other runs a client, and floods over the second pair."
    ));
    let config =
        format!("interfaces = [\"{SERVER_INTERFACE}\", \"{SECOND_SERVER_INTERFACE}\"]\n[thresholds]\nhold = \"3s\"");
    let mut daemon = Setup::new(&lab)?.config(&config).start()?;
    say("tcpguard guards the server's interfaces. To watch it from another shell:");
    println!("    target/debug/tcpguard status --socket {}", daemon.socket().display());
    println!("    target/debug/tcpguard top --socket {}", daemon.socket().display());
    let dashboard = dashboard(&lab)?;
    if let Some((address, _)) = &dashboard {
        println!("or in a browser, while the demo runs: http://{address}/");
    }

    let calm = calm(&lab, &daemon)?;
    half_open(&lab, &daemon)?;
    let few = few_sources(&lab, &daemon)?;
    let random = random_sources(&lab, &daemon)?;
    // It is asked to end: a killed daemon's datapath stays and protects for as long as its lease lasts.
    ensure!(daemon.end(Signal::SIGTERM)?.success(), "tcpguard failed to end");
    drop((dashboard, daemon));
    let [kernel, without_cookies] = floods_without_tcpguard(&lab)?;
    conclude(&[calm, few, random, kernel, without_cookies]);
    Ok(())
}

/// Makes the dashboard available on the host's loopback interface, by forwarding connections into the lab.
fn dashboard(lab: &Lab) -> Result<Option<(SocketAddr, Bridge)>> {
    let Ok(listener) = TcpListener::bind(DASHBOARD).or_else(|_| TcpListener::bind("127.0.0.1:0")) else {
        return Ok(None);
    };
    let address = listener.local_addr()?;
    let server = lab.server.clone();
    let bridge = Bridge::start(listener, move || server.within(|| Ok(TcpStream::connect(DASHBOARD)?)))?;
    Ok(Some((address, bridge)))
}

/// One row of the final table.
struct Phase {
    name: &'static str,
    sent: u64,
    /// See [`Attack::cpu`]; `None` if it was not measured.
    cpu: Option<f64>,
    counted: Option<u64>,
    /// See [`Attack::planned`].
    planned: u32,
    client: Connections,
}

fn calm(lab: &Lab, daemon: &Daemon) -> Result<Phase> {
    headline(&format!("1. Calm: a client opens {CLIENT_RATE} connections per second"));
    let client = Client::new(lab).run(SERVER, CLIENT_RATE, PHASE, || true)?;
    let stats = daemon.stats_when("the client's handshakes are counted", |stats| {
        stats.totals.completed == u64::from(client.served())
    })?;
    say(&format!(
        "The client opened {} connections. tcpguard counted {} SYNs and {} completed handshakes; {} are half-open.",
        client.served(),
        stats.totals.syn,
        stats.totals.completed,
        stats.half_open.datapath
    ));
    show(daemon, &["status"])?;
    Ok(Phase {
        name: "calm",
        sent: u64::from(client.tried),
        counted: Some(stats.totals.syn),
        cpu: None,
        planned: client.tried,
        client,
    })
}

fn half_open(lab: &Lab, daemon: &Daemon) -> Result<()> {
    headline("2. Three sources start handshakes and never complete them");
    for (source, syns) in [("198.18.1.1", 120), ("198.18.1.2", 60), ("198.18.7.7", 30)] {
        Flood::new(lab, &FloodSpec::syn(Sources::InTurn(source.parse()?, 1), 80))?.send(syns)?;
    }
    let stats = daemon.stats_when("all SYNs are counted, by the datapath and by the kernel", |stats| {
        stats.half_open.datapath == 210 && stats.half_open.kernel == 210
    })?;
    say(&format!(
        "210 handshakes were started and stay half-open. The kernel has {} requests in SYN_RECV; tcpguard counts {}.",
        stats.half_open.kernel, stats.half_open.datapath
    ));
    say("The sources, with the client, whose handshakes complete, for comparison:");
    show(daemon, &["sources", "--sort", "half-open"])?;
    say("The last lines of `tcpguard half-open`, which summarises the kernel's half-open handshakes:");
    let output = tcpguard(&["half-open"], &daemon.socket())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    print(&lines[lines.len().saturating_sub(3)..].join("\n"));
    Ok(())
}

/// A flood from ten sources that send only SYNs.
fn ten_sources() -> FloodSpec {
    FloodSpec::syn(Sources::InTurn(IpAddr::V4(Ipv4Addr::new(198, 18, 66, 1)), 10), 80)
}

fn few_sources(lab: &Lab, daemon: &Daemon) -> Result<Phase> {
    headline(&format!("3. A flood of {FLOOD_RATE} SYNs per second from ten sources, while the client continues"));
    let (phase, during) = flood(lab, daemon, "flood from ten sources", &ten_sources())?;
    let passed = phase.sent - dropped(&daemon.stats()?);
    say(&format!(
        "During the flood tcpguard reports: state {}, kind {}, {} blocks. {passed} of {} SYNs passed.",
        during.state,
        kind(&during),
        during.measures.blocks,
        phase.sent
    ));
    say("The latest events (`tcpguard events`):");
    show(daemon, &["events", "--limit", "6"])?;
    say("The attack ends when values have stayed below the thresholds for `hold`, which is three seconds here:");
    daemon.stats_when("it is calm again", |stats| stats.state == "calm")?;
    show(daemon, &["events", "--limit", "3"])?;
    Ok(phase)
}

fn random_sources(lab: &Lab, daemon: &Daemon) -> Result<Phase> {
    headline("4. The same flood from random sources, where blocking sources does not help");
    let (phase, during) = flood(lab, daemon, "flood from random sources", &random())?;
    say(&format!(
        "tcpguard classifies the attack as {}: {}. It has answered {} SYNs with SYN cookies from XDP, without keeping \
         state; {} cookies were returned and became connections. Forged sources are not blocked.",
        kind(&during),
        during.attack.as_ref().and_then(|attack| attack.evidence.last()).map_or("", String::as_str),
        during.totals.challenged,
        during.measures.challenge.cookies_returned
    ));
    Ok(phase)
}

/// Runs a flood and the client in parallel; returns the results and `/stats` from the middle of the flood.
fn flood(lab: &Lab, daemon: &Daemon, name: &'static str, spec: &FloodSpec) -> Result<(Phase, Stats)> {
    let before = syn_total(&daemon.stats()?);
    let by_client = oracle::syns_sent(&lab.client)?;
    let Attack { sent, cpu, planned, client, during } = attack(lab, spec, || daemon.stats())?;
    let least = sent + u64::from(client.tried);
    let stats = daemon.stats_when("every SYN of the flood is counted", |stats| syn_total(stats) - before >= least)?;
    let counted = Some(syn_total(&stats) - before);
    // The client's SYNs, including those that its kernel retransmitted.
    let sent = sent + oracle::syns_sent(&lab.client)? - by_client;
    Ok((
        Phase { name, sent, counted, cpu: Some(cpu), planned, client },
        during.context("nothing was reported during the flood")?,
    ))
}

/// Runs the flood from random sources against the kernel alone, with and without its SYN cookies.
fn floods_without_tcpguard(lab: &Lab) -> Result<[Phase; 2]> {
    headline("5. For comparison: the flood from random sources without tcpguard");
    let links = lab.server.command("ip").args(["-details", "link"]).output()?;
    ensure!(!String::from_utf8_lossy(&links.stdout).contains("prog/xdp"), "tcpguard's datapath is still attached");
    lab.receive_without_daemon()?;
    let with_cookies = unguarded(lab, "random, kernel's cookies")?;
    say("The kernel's own SYN cookies serve the client.");
    lab.server.sysctl("net.ipv4.tcp_syncookies", "0")?;
    let without = unguarded(lab, "random, tcp_syncookies = 0")?;
    say(&format!(
        "Without cookies the listener's queue is full: of {} connections that the client meant to open, the server served {}.",
        without.planned,
        without.client.served()
    ));
    Ok([with_cookies, without])
}

fn unguarded(lab: &Lab, name: &'static str) -> Result<Phase> {
    let Attack { sent, cpu, planned, client, .. } = attack(lab, &random(), || Ok(()))?;
    let sent = sent + u64::from(client.tried);
    Ok(Phase { name, sent, counted: None, cpu: Some(cpu), planned, client })
}

fn random() -> FloodSpec {
    FloodSpec::syn(Sources::RANDOM_IPV4, 80)
}

/// A flood, and the client beside it.
struct Attack<T> {
    sent: u64,
    /// CPU seconds per million SYNs, for sending and receiving them.
    cpu: f64,
    /// Connections that the client would have tried at its rate. It waits for one before it opens the next, so that it
    /// tries fewer where it is not served.
    planned: u32,
    client: Connections,
    during: Option<T>,
}

/// Runs a flood and the client in parallel, and calls `look` in the middle of the flood.
fn attack<T>(lab: &Lab, spec: &FloodSpec, look: impl Fn() -> Result<T>) -> Result<Attack<T>> {
    let before = oracle::send_and_receive_seconds()?;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            let start = Instant::now();
            let client = Client::new(lab).run(SERVER, CLIENT_RATE, PHASE * 2, || !is_over.load(Ordering::Relaxed))?;
            let planned = (start.elapsed().as_secs_f64() * f64::from(CLIENT_RATE)) as u32;
            anyhow::Ok((planned.max(client.tried), client))
        });
        let flood = scope.spawn(|| -> Result<u64> {
            let sent = Flood::from_interface(&lab.client, SECOND_CLIENT_INTERFACE, spec)
                .and_then(|mut flood| flood.send_at(FLOOD_RATE, PHASE));
            is_over.store(true, Ordering::Relaxed);
            sent
        });
        thread::sleep(PHASE / 2);
        let during = look().ok();
        let sent = flood.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        let (planned, client) = client.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        let cpu = (oracle::send_and_receive_seconds()? - before) / (sent as f64 / 1e6);
        Ok(Attack { sent, cpu, planned, client, during })
    })
}

fn conclude(phases: &[Phase]) {
    headline("SYNs sent, SYNs counted, and the client's results");
    println!(
        "{:<27} {:>10} {:>13} {:>14} {:>16} {:>13} {:>14}",
        "", "SYNs sent", "SYNs counted", "client served", "connect, median", "connect, 99 %", "CPU s / M SYNs"
    );
    for phase in phases {
        println!(
            "{:<27} {:>10} {:>13} {:>12.1} % {:>13.1} ms {:>10.1} ms {:>14}",
            phase.name,
            phase.sent,
            phase.counted.map_or_else(|| "-".to_owned(), |counted| counted.to_string()),
            f64::from(phase.client.served()) / f64::from(phase.planned.max(1)) * 100.0,
            milliseconds(phase.client.quantile(0.5)),
            milliseconds(phase.client.quantile(0.99)),
            phase.cpu.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.2}"))
        );
    }
    println!("\nCPU time is for sending and receiving the flood: the sender's part is the same in all rows.");
    println!("The lab and its interfaces are removed when this program exits.");
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn kind(stats: &Stats) -> &str {
    stats.attack.as_ref().map_or("none", |attack| &attack.kind)
}

fn syn_total(stats: &Stats) -> u64 {
    stats.totals.syn
}

fn dropped(stats: &Stats) -> u64 {
    stats.totals.dropped
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

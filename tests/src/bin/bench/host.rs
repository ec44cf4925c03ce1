//! What a host costs the daemon: in calm, with many connections, many listeners, after a scan and in a flood.

use std::{
    env,
    io::{BufRead, BufReader, Read, stdin},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Child, Stdio},
    thread::{scope, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lab::{
    Client, Daemon, Flood, FloodSpec, Lab, Setup, Sources,
    network::{SERVER_INTERFACE, SERVER_IPV4},
    server::Nginx,
    wait::{GoesOn, beside},
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::Effort;

/// Connections that one process holds: each is two sockets, and a process has no more than 20,000 on some machines.
const OF_ONE_PROCESS: usize = 9_400;
const FIRST_PORT: u16 = 20_000;
/// How long the daemon takes to become calm after a start, and to notice what it found.
const SETTLES: Duration = Duration::from_secs(4);
/// SYNs per second of the floods.
const FLOOD: u32 = 100_000;
const STRONG_FLOOD: u32 = 400_000;
/// The time between two scrapes of the metrics.
const SCRAPES: Duration = Duration::from_secs(1);

/// Prints the daemon's cost on hosts of several kinds.
pub fn costs(effort: &Effort) -> Result<()> {
    println!("Cost of the daemon on a host, by what the host does");
    println!("{:<58} {:>10} {:>10} {:>14}", "", "% of core", "limit", "MiB resident");
    calm(effort)?;
    connections(effort)?;
    listeners(effort)?;
    scanned(effort)?;
    watched(effort)
}

fn calm(effort: &Effort) -> Result<()> {
    let lab = Lab::new()?;
    let nginx = Nginx::start(&lab, &[80])?;
    let daemon = start(&lab)?;
    report("calm, no traffic", 0.3, &measure(&daemon, effort.watch * 3)?);
    let (client, server) = (Client::new(&lab), SocketAddr::from((SERVER_IPV4, 80)));
    let used = scope(|scope| -> Result<Used> {
        let clients = scope.spawn(|| client.run(server, 1000, effort.watch + Duration::from_secs(2), || true));
        sleep(Duration::from_secs(1));
        let used = measure(&daemon, effort.watch)?;
        let served = clients.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        ensure!(served.share() > 0.99, "{:.3} of the connections were served", served.share());
        Ok(used)
    })?;
    report("calm, 1,000 connections per second", 1.0, &used);
    drop(nginx);
    Ok(())
}

fn connections(effort: &Effort) -> Result<()> {
    let lab = Lab::new()?;
    let holders: Vec<Holder> = (0..effort.holders).map(|number| Holder::start(&lab, number)).collect::<Result<_>>()?;
    let daemon = start(&lab)?;
    let number = holders.len() * OF_ONE_PROCESS;
    report(&format!("{number} idle connections, calm"), 1.0, &measure(&daemon, effort.watch)?);
    let mut flood = Flood::new(&lab, &FloodSpec::syn(random(), FIRST_PORT))?;
    let used = flood.during(FLOOD, || measure(&daemon, effort.watch))?;
    report(&format!("{number} idle connections, {FLOOD} SYNs per second"), 5.0, &used);
    Ok(())
}

fn listeners(effort: &Effort) -> Result<()> {
    let lab = Lab::new()?;
    let open = || -> Result<Vec<TcpListener>> {
        raise_limit()?;
        let ports = (FIRST_PORT..).take(10_000);
        ports.map(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).context("cannot listen")).collect()
    };
    let listeners = lab.server.within(open)?;
    let begin = Instant::now();
    let daemon = start(&lab)?;
    println!(
        "start with {} listeners: {:.2} s   limit 2.00",
        listeners.len(),
        (begin.elapsed() - SETTLES).as_secs_f64()
    );
    report(&format!("{} listeners, calm", listeners.len()), 1.0, &measure(&daemon, effort.watch)?);
    let mut flood = Flood::new(&lab, &FloodSpec::syn(random(), FIRST_PORT))?;
    let used = flood.during(FLOOD, || measure(&daemon, effort.watch))?;
    report(&format!("{} listeners, {FLOOD} SYNs per second", listeners.len()), 6.0, &used);
    Ok(())
}

fn scanned(effort: &Effort) -> Result<()> {
    let lab = Lab::new()?;
    let daemon = start(&lab)?;
    let before = measure(&daemon, effort.watch)?;
    report("before a scan of all ports", 0.3, &before);
    let source: IpAddr = [10, 3, 0, 1].into();
    let scan = FloodSpec { destination_ports: (1, u16::MAX), ..FloodSpec::syn(Sources::Random(source, 1), 1) };
    // By chance each port gets twenty.
    Flood::new(&lab, &scan)?.send_at(FLOOD, Duration::from_secs(13))?;
    println!("{} SYNs to all ports", daemon.stats()?.totals.syn);
    sleep(Duration::from_secs(60).min(effort.watch * 3));
    report("a minute after it", 0.3, &measure(&daemon, effort.watch)?);
    Ok(())
}

fn watched(effort: &Effort) -> Result<()> {
    let lab = Lab::new()?;
    let nginx = Nginx::start(&lab, &[80])?;
    let daemon = start(&lab)?;
    let watch = |goes_on: GoesOn| {
        while goes_on() {
            daemon.get("/metrics").ok();
            // As the dashboard's stream does, once a second.
            daemon.get("/stats").ok();
            sleep(SCRAPES);
        }
        Ok(())
    };
    let mut flood = Flood::new(&lab, &FloodSpec::syn(random(), 80))?;
    let (used, ()) = beside(watch, || flood.during(STRONG_FLOOD, || measure(&daemon, effort.watch)))?;
    report(&format!("{STRONG_FLOOD} SYNs per second, statistics and metrics read every second"), 8.0, &used);
    drop(nginx);
    Ok(())
}

fn random() -> Sources {
    Sources::Random([10, 64, 0, 0].into(), 1 << 22)
}

fn start(lab: &Lab) -> Result<Daemon> {
    let daemon = Setup::new(lab)?.config(&format!("interfaces = [\"{SERVER_INTERFACE}\"]\n")).start()?;
    sleep(SETTLES);
    Ok(daemon)
}

struct Used {
    percent: f64,
    resident_mib: f64,
}

fn measure(daemon: &Daemon, duration: Duration) -> Result<Used> {
    let (start, before) = (Instant::now(), daemon.cpu_seconds()?);
    sleep(duration);
    let percent = (daemon.cpu_seconds()? - before) / start.elapsed().as_secs_f64() * 100.0;
    Ok(Used { percent, resident_mib: daemon.resident_kib()? as f64 / 1024.0 })
}

fn report(what: &str, limit: f64, used: &Used) {
    println!("{what:<58} {:>10.2} {limit:>10.2} {:>14.1}", used.percent, used.resident_mib);
}

fn raise_limit() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).context("cannot read the limit of open files")?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("cannot raise the limit of open files")
}

/// A process that holds idle connections of the server with itself until this value is dropped.
struct Holder(Child);

impl Holder {
    fn start(lab: &Lab, number: u16) -> Result<Self> {
        let mut command = lab.server.command(env::current_exe().context("cannot find this program")?);
        command.arg("--hold").arg((FIRST_PORT + number).to_string());
        let mut process =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start itself")?;
        let output = process.stdout.take().context("it has no output")?;
        let holder = Self(process);
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).context("cannot read from the holder")?;
        ensure!(line.starts_with("ready"), "the holder of connections failed");
        Ok(holder)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if self.0.kill().is_ok() {
            self.0.wait().ok();
        }
    }
}

/// Opens connections to a port of this host until the standard input ends.
pub fn hold(port: u16) -> Result<()> {
    raise_limit()?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).context("cannot listen")?;
    let connect = |_| -> Result<(TcpStream, TcpStream)> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).context("cannot connect")?;
        Ok((stream, listener.accept().context("cannot accept")?.0))
    };
    let connections = (0..OF_ONE_PROCESS).map(connect).collect::<Result<Vec<_>>>()?;
    println!("ready with {} connections", connections.len());
    stdin().read_to_end(&mut Vec::new()).context("cannot read the standard input")?;
    Ok(())
}

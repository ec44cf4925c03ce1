//! What a host costs the daemon: in calm, with many connections, many listeners, after a scan and in a flood.

use std::{
    env,
    io::{BufRead, BufReader, Read, stdin},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::Stdio,
    thread::{scope, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lab::{
    Client, Daemon, Flood, FloodSpec, Lab, Setup, Sources,
    daemon::challenge_of,
    http,
    network::{SERVER_INTERFACE, SERVER_IPV4},
    process::{KilledOnDrop, cpu_seconds, resident_kib},
    server::Nginx,
    wait::{GoesOn, beside},
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::Effort;

/// Connections that one process holds: each is two sockets, and a process has no more than 20,000 on some machines.
const OF_ONE_PROCESS: usize = 9_400;
const FIRST_PORT: u16 = 20_000;
/// SYNs per second of the floods.
const FLOOD: u32 = 100_000;
const STRONG_FLOOD: u32 = 400_000;
/// The time between two scrapes of the metrics.
const SCRAPES: Duration = Duration::from_secs(1);
/// The time between two scrapes of another exporter's metrics, in seconds.
const SCRAPED_EVERY: u64 = 15;

/// Prints the daemon's cost on hosts of several kinds: of all, or of those whose names contain one of `only`.
pub fn costs(effort: &Effort, only: &[String]) -> Result<()> {
    println!("Cost of the daemon on a host, by what the host does");
    println!("{:<58} {:>10} {:>10} {:>14}", "", "% of core", "limit", "MiB resident");
    let parts: [super::Part<'_>; 8] = [
        ("calm", &|| calm(effort)),
        ("node_exporter", &|| peer(effort)),
        ("idle connections", &|| connections(effort)),
        ("listeners", &|| listeners(effort)),
        ("one address", &|| addresses(1, effort)),
        ("10,000 addresses", &|| addresses(10_000, effort)),
        ("a scan", &|| scanned(effort)),
        ("a strong flood", &|| watched(effort)),
    ];
    let is_wanted = |name: &str| only.is_empty() || only.iter().any(|only| name.contains(only.as_str()));
    let wanted: Vec<_> = parts.into_iter().filter(|(name, _)| is_wanted(name)).collect();
    super::in_turn(&wanted)
}

fn calm(effort: &Effort) -> Result<()> {
    let lab = Lab::new()?;
    let nginx = Nginx::start(&lab, &[80])?;
    let daemon = start(&lab, effort)?;
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

/// What another daemon that runs on servers costs, scraped as usual.
fn peer(effort: &Effort) -> Result<()> {
    let lab = Lab::new()?;
    let exporter = start_peer(&lab, "prometheus-node-exporter", &["--web.listen-address=127.0.0.1:9100"])?;
    sleep(effort.settles);
    let scrape = |goes_on: GoesOn| {
        let client = Client::in_namespace(&lab.server);
        for second in 0u64.. {
            if !goes_on() {
                break;
            }
            if second % SCRAPED_EVERY == 0 {
                http::get(client.connect((Ipv4Addr::LOCALHOST, 9100).into())?, "/metrics")?;
            }
            sleep(Duration::from_secs(1));
        }
        Ok(())
    };
    let (used, ()) = beside(scrape, || used_by(exporter.0.id(), effort.watch * 3))?;
    report_peer("node_exporter, scraped every 15 s", &used);
    Ok(())
}

/// New clients of a host with so many addresses, in a flood of one of them.
fn addresses(number: u32, effort: &Effort) -> Result<()> {
    let lab = Lab::new()?;
    let all = lab.add_server_addresses(Ipv4Addr::new(10, 70, 0, 0), number)?;
    let sources: Vec<IpAddr> =
        (0..effort.new_clients).map(|n| IpAddr::from([198, 18, 64 + (n / 250) as u8, 1 + (n % 250) as u8])).collect();
    sources.iter().try_for_each(|source| lab.add_client_address(*source))?;
    let nginx = Nginx::start(&lab, &[80])?;
    let daemon = start(&lab, effort)?;
    let mut flood = Flood::new(&lab, &FloodSpec::syn(random(), 80))?;
    let mut times = flood.during(FLOOD, || {
        daemon.stats_when("the flood is challenged", |stats| challenge_of(stats, 80) == Some("cookie"))?;
        let connect = |(source, server): (&IpAddr, &Ipv4Addr)| {
            Client::new(&lab)
                .from(*source)
                .fetch((*server, 80).into())
                .with_context(|| format!("from {source} to {server}"))
        };
        let servers = all.iter().step_by((all.len() / sources.len()).max(1)).cycle();
        sources.iter().zip(servers).map(connect).collect::<Result<Vec<Duration>>>()
    })?;
    times.sort_unstable();
    let p99 = times[(times.len() * 99 / 100).min(times.len() - 1)];
    let challenge = daemon.stats()?.measures.challenge;
    println!(
        "{:<58} p99 {:.1} ms, {} of {} by cookie, {FLOOD} SYNs per second beside them",
        format!("{} new clients of {number} addresses", times.len()),
        p99.as_secs_f64() * 1000.0,
        challenge.cookies_returned,
        times.len(),
    );
    drop(nginx);
    Ok(())
}

fn connections(effort: &Effort) -> Result<()> {
    let lab = Lab::new()?;
    let holders: Vec<_> = (0..effort.holders).map(|number| start_holder(&lab, number)).collect::<Result<_>>()?;
    let daemon = start(&lab, effort)?;
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
    let daemon = start(&lab, effort)?;
    println!(
        "start with {} listeners: {:.2} s   limit 2.00",
        listeners.len(),
        (begin.elapsed() - effort.settles).as_secs_f64()
    );
    report(&format!("{} listeners, calm", listeners.len()), 1.0, &measure(&daemon, effort.watch)?);
    let mut flood = Flood::new(&lab, &FloodSpec::syn(random(), FIRST_PORT))?;
    let used = flood.during(FLOOD, || measure(&daemon, effort.watch))?;
    report(&format!("{} listeners, {FLOOD} SYNs per second", listeners.len()), 6.0, &used);
    Ok(())
}

fn scanned(effort: &Effort) -> Result<()> {
    let lab = Lab::new()?;
    let daemon = start(&lab, effort)?;
    let before = measure(&daemon, effort.watch)?;
    report("before a scan of all ports", 0.3, &before);
    let source: IpAddr = [10, 3, 0, 1].into();
    let scan = FloodSpec { destination_ports: (1, u16::MAX), ..FloodSpec::syn(Sources::Random(source, 1), 1) };
    Flood::new(&lab, &scan)?.send_at(FLOOD, effort.scan)?;
    println!("{} SYNs to all ports", daemon.stats()?.totals.syn);
    sleep(Duration::from_secs(60).min(effort.watch * 3));
    report("a minute after it", 0.3, &measure(&daemon, effort.watch)?);
    Ok(())
}

fn watched(effort: &Effort) -> Result<()> {
    let lab = Lab::new()?;
    let nginx = Nginx::start(&lab, &[80])?;
    let daemon = start(&lab, effort)?;
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

fn start(lab: &Lab, effort: &Effort) -> Result<Daemon> {
    let daemon = Setup::new(lab)?.config(&format!("interfaces = [\"{SERVER_INTERFACE}\"]\n")).start()?;
    sleep(effort.settles);
    Ok(daemon)
}

/// What a process uses.
pub struct Used {
    pub percent: f64,
    pub resident_mib: f64,
}

/// Measures the daemon for a while.
pub fn measure(daemon: &Daemon, duration: Duration) -> Result<Used> {
    used_by(daemon.id(), duration)
}

fn used_by(process: u32, duration: Duration) -> Result<Used> {
    let (start, before) = (Instant::now(), cpu_seconds(process)?);
    sleep(duration);
    let percent = (cpu_seconds(process)? - before) / start.elapsed().as_secs_f64() * 100.0;
    Ok(Used { percent, resident_mib: resident_kib(process)? as f64 / 1024.0 })
}

/// Starts another daemon.
fn start_peer(lab: &Lab, program: &str, arguments: &[&str]) -> Result<KilledOnDrop> {
    let mut command = lab.server.command(program);
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().map(KilledOnDrop).with_context(|| format!("cannot start {program}, a Debian package"))
}

fn report(what: &str, limit: f64, used: &Used) {
    println!("{what:<58} {:>10.2} {limit:>10.2} {:>14.1}", used.percent, used.resident_mib);
}

fn report_peer(name: &str, used: &Used) {
    println!(
        "{:<58} {:>10.2} {:>10} {:>14.1}",
        format!("(for comparison: {name})"),
        used.percent,
        "",
        used.resident_mib
    );
}

fn raise_limit() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).context("cannot read the limit of open files")?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("cannot raise the limit of open files")
}

/// Starts a process that holds idle connections of the server with itself.
fn start_holder(lab: &Lab, number: u16) -> Result<KilledOnDrop> {
    let mut command = lab.server.command(env::current_exe().context("cannot find this program")?);
    command.arg("--hold").arg((FIRST_PORT + number).to_string());
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start itself")?;
    let output = process.stdout.take().context("it has no output")?;
    let holder = KilledOnDrop(process);
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line).context("cannot read from the holder")?;
    ensure!(line.starts_with("ready"), "the holder of connections failed");
    Ok(holder)
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

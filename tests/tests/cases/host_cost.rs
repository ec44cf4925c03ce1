//! What a host costs in calm, and a large one: many connections that have nothing to do with an attack.

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lab::{Daemon, Flood, FloodSpec, Lab, Scene, Setup, network::SERVER_INTERFACE};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Each takes two sockets and two entries of the kernel's table.
const CONNECTIONS: usize = 9_000;
const WATCHED: Duration = Duration::from_secs(5);
/// The share of one core that so many connections may cost.
const LIMIT: f64 = 0.03;
/// Two, because a client has fewer ports than there are connections.
const PORTS: [u16; 2] = [80, 81];

/// Fails on a tcpguard that has the kernel walk its connections with each tick.
#[test]
fn idle_connections_cost_next_to_nothing_and_rows_are_read_on_request() -> Result<()> {
    let lab = Lab::new()?;
    let daemon = Setup::new(&lab)?.config(&format!("interfaces = [\"{SERVER_INTERFACE}\"]\n")).start()?;
    sleep(Duration::from_secs(1));
    let before = share(&daemon)?;
    let (listeners, connections) = lab.server.within(idle_connections)?;
    let with = share(&daemon)?;
    println!("{} connections: {:.1} % of a core, {:.1} % without", connections.len(), 100.0 * with, 100.0 * before);
    ensure!(with <= before + LIMIT, "{:.1} % of a core, {:.1} % without connections", 100.0 * with, 100.0 * before);

    Flood::new(&lab, &FloodSpec::one_source(PORTS[0]))?.send(5)?;
    // What was read within the last second counts as present.
    sleep(Duration::from_millis(1200));
    let report = daemon.json("/half-open")?;
    ensure!(report["total"] == 5, "the rows are not those of now: {report}");
    drop((listeners, connections));
    Ok(())
}

/// Fails on a tcpguard that handles every listener with each tick, some of them for each other one.
#[test]
fn ten_thousand_listeners_cost_next_to_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let _listeners = lab.server.within(many_listeners)?;
    let start = Instant::now();
    let daemon = Setup::new(&lab)?.config(&format!("interfaces = [\"{SERVER_INTERFACE}\"]\n")).start()?;
    let started = start.elapsed();
    sleep(Duration::from_secs(2));
    let calm = share(&daemon)?;
    println!(
        "{LISTENERS} listeners: ready after {:.2} s, {:.2} % of a core in calm",
        started.as_secs_f64(),
        100.0 * calm
    );
    ensure!(calm <= LIMIT, "{:.1} % of a core in calm", 100.0 * calm);
    let stats = daemon.stats()?;
    ensure!(stats.ports.len() >= LISTENERS, "{} ports", stats.ports.len());

    let mut flood = Flood::new(&lab, &FloodSpec::one_source(FIRST_LISTENER + 77))?;
    flood.send(600)?;
    let stats = daemon.stats_when("an attack has begun", |stats| stats.state == "attack")?;
    let flooded = stats.ports.iter().find(|port| port.port == FIRST_LISTENER + 77);
    ensure!(flooded.is_some_and(|port| port.syn == 600), "{flooded:?}");
    Ok(())
}

const LISTENERS: usize = 10_000;
const FIRST_LISTENER: u16 = 10_000;

fn many_listeners() -> Result<Vec<TcpListener>> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).context("cannot read the limit of open files")?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("cannot raise the limit of open files")?;
    let ports = (FIRST_LISTENER..).take(LISTENERS);
    ports.map(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).context("cannot listen")).collect()
}

/// Fails on a tcpguard that looks ten times a second whatever happens.
#[test]
fn the_daemon_looks_once_a_second_in_calm_and_ten_times_when_something_happens() -> Result<()> {
    let scene = Scene::new("")?;
    let calm = ticks(&scene.daemon, WATCHED)?;
    ensure!((4..=8).contains(&calm), "{calm} ticks within {WATCHED:?} of calm");

    let mut flood = scene.flood(&FloodSpec::one_source(PORTS[0]))?;
    flood.send(600)?;
    scene.daemon.stats_when("an attack has begun", |stats| stats.state == "attack")?;
    let under_attack = ticks(&scene.daemon, Duration::from_secs(1))?;
    ensure!((8..=13).contains(&under_attack), "{under_attack} ticks within a second of an attack");
    Ok(())
}

/// Returns the number of ticks within this time. Each of the two questions for it adds one at most.
fn ticks(daemon: &Daemon, within: Duration) -> Result<u64> {
    let before = daemon.stats()?.cost.ticks;
    sleep(within);
    Ok(daemon.stats()?.cost.ticks - before)
}

/// Returns the share of one core that the daemon uses.
fn share(daemon: &Daemon) -> Result<f64> {
    let (start, before) = (Instant::now(), daemon.cpu_seconds()?);
    sleep(WATCHED);
    Ok((daemon.cpu_seconds()? - before) / start.elapsed().as_secs_f64())
}

/// Both ends of a connection.
type Connection = (TcpStream, TcpStream);

/// Opens connections of the host with itself, which no interface but the loopback sees.
fn idle_connections() -> Result<(Vec<TcpListener>, Vec<Connection>)> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).context("cannot read the limit of open files")?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("cannot raise the limit of open files")?;
    let listeners = PORTS.map(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).context("cannot listen"));
    let listeners = listeners.into_iter().collect::<Result<Vec<_>>>()?;
    let connect = |(listener, port): (&TcpListener, u16)| -> Result<Connection> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).context("cannot connect")?;
        Ok((stream, listener.accept().context("cannot accept")?.0))
    };
    let ends = listeners.iter().zip(PORTS).cycle().take(CONNECTIONS).map(connect);
    let connections = ends.collect::<Result<Vec<_>>>()?;
    Ok((listeners, connections))
}

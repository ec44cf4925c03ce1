//! What a large host costs: many connections that have nothing to do with an attack.

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lab::{Daemon, Flood, FloodSpec, Lab, Setup, network::SERVER_INTERFACE};
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

//! Floods of segments that are no SYNs and belong to no connection. Each test fails on a tcpguard that looks segments up only
//! at challenged ports: it reports no attack and drops nothing.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use lab::{
    Lab, Setup,
    daemon::Daemon,
    distance::Path,
    flood::{Flood, FloodSpec, Sources},
    frame::{ACK, FIN, Frame, RST, SYN},
    network::{CLIENT_IPV4, SERVER_INTERFACE, SERVER_IPV4},
    oracle, redirect,
    server::{self, Nginx},
    wire::Wire,
};
use tcpguard::api::model::Stats;

const PORT: u16 = 443;
/// A port of the server without a listener, as those are that its own connections begin at.
const CLOSED: u16 = 40_000;
const RATE: u32 = 20_000;

/// The kinds of floods: the reason for which they are dropped, their flags and port.
const KINDS: [(&str, u8, u16); 6] = [
    ("stray_ack", ACK, PORT),
    ("stray_ack", ACK, CLOSED),
    ("stray_fin", FIN | ACK, PORT),
    ("stray_rst", RST, CLOSED),
    ("stray_syn_ack", SYN | ACK, CLOSED),
    ("stray_syn_ack", SYN | ACK, PORT),
];

fn config(sections: &str) -> String {
    format!("interfaces = [\"{SERVER_INTERFACE}\"]\n[thresholds]\nhold = \"1s\"\n{sections}")
}

fn flood(lab: &Lab, sources: Sources, flags: u8, port: u16) -> Result<Flood> {
    Flood::new(lab, &FloodSpec { flags, tcp_options: Vec::new(), ..FloodSpec::syn(sources, port) })
}

fn kind(stats: &Stats) -> Option<&str> {
    stats.attack.as_ref().map(|attack| attack.kind.as_str())
}

/// A host whose clients are at a distance, one of which has a connection to it, and which has one to another of them.
struct Host {
    lab: Lab,
    listener: TcpListener,
    outside: TcpListener,
    connections: Vec<(TcpStream, TcpStream)>,
}

impl Host {
    fn new() -> Result<Self> {
        let lab = Lab::at_distance(Path::milliseconds(40))?;
        let listener = server::listen(&lab.server, SERVER_IPV4.into(), PORT)?;
        let outside = server::listen(&lab.clients, CLIENT_IPV4.into(), PORT)?;
        Ok(Self { lab, listener, outside, connections: Vec::new() })
    }

    /// Opens a connection in each direction.
    fn connect(&mut self) -> Result<()> {
        let ends: [(_, (IpAddr, _), _); 2] = [
            (&self.lab.clients, (SERVER_IPV4.into(), PORT), &self.listener),
            (&self.lab.server, (CLIENT_IPV4.into(), PORT), &self.outside),
        ];
        for (from, to, listener) in ends {
            let patience = Duration::from_millis(900);
            let client = from.within(|| {
                TcpStream::connect_timeout(&SocketAddr::from(to), patience)
                    .with_context(|| format!("no connection to {} within {patience:?}", to.0))
            })?;
            let (server, _) = listener.accept().context("cannot accept the connection")?;
            server.set_read_timeout(Some(patience)).context("cannot set the timeout")?;
            self.connections.push((client, server));
        }
        Ok(())
    }

    /// Sends something over each connection.
    fn use_connections(&mut self) -> Result<()> {
        for (client, server) in &mut self.connections {
            client.write_all(b"alive").context("cannot write to the connection")?;
            server.read_exact(&mut [0; 5]).context("nothing arrives over the connection")?;
        }
        Ok(())
    }
}

#[test]
fn floods_of_each_kind_are_dropped_until_they_end() -> Result<()> {
    let mut host = Host::new()?;
    let daemon = Setup::new(&host.lab)?.config(&config("")).start()?;
    host.connect()?;
    for (reason, flags, port) in KINDS {
        let before = daemon.stats()?.drops[reason];
        let mut flood = flood(&host.lab, Sources::RANDOM_IPV4, flags, port)?;
        let found = flood.during(RATE, || {
            let is_found = |stats: &Stats| kind(stats) == Some("stray") && stats.drops[reason] > before + 1000;
            let found = daemon.stats_when(reason, is_found)?;
            host.connect()?;
            host.use_connections()?;
            Ok(found)
        })?;
        let stats = daemon.stats_when("the flood is over", |stats| stats.state == "calm")?;
        let (arrived, dropped) =
            (stats.totals.packets - found.totals.packets, stats.drops[reason] - found.drops[reason]);
        // The rest are segments of connections.
        ensure!(arrived - dropped < 100, "{reason} to {port}: once found, {dropped} of {arrived} are dropped");
        ensure!(stats.totals.passed + stats.totals.dropped == stats.totals.packets, "{:?}", stats.totals);
        ensure!(stats.totals.challenged == 0 && stats.measures.blocks == 0, "{:?}", stats.measures);
        host.use_connections()?;
    }
    answers_strays_again(&host.lab, &daemon)
}

/// Checks that segments without a connection reach the kernel, which answers them with resets.
fn answers_strays_again(lab: &Lab, daemon: &Daemon) -> Result<()> {
    let before = (daemon.stats()?.totals.dropped, oracle::tcp(&lab.server, "OutRsts")?);
    flood(lab, Sources::RANDOM_IPV4, ACK, CLOSED)?.send(200)?;
    let sent = || Ok(oracle::tcp(&lab.server, "OutRsts")? - before.1);
    lab::eventually("each is answered with a reset", sent, |sent| *sent == 200)?;
    ensure!(daemon.stats()?.totals.dropped == before.0, "something was dropped in calm");
    Ok(())
}

#[test]
fn over_ipv6_as_well() -> Result<()> {
    let mut host = Host::new()?;
    let daemon = Setup::new(&host.lab)?.config(&config("")).start()?;
    host.connect()?;
    flood(&host.lab, Sources::RANDOM_IPV6, ACK, CLOSED)?.during(RATE, || {
        daemon.stats_when("strays are dropped", |stats| stats.drops["stray_ack"] > 1000)?;
        host.connect()
    })
}

#[test]
fn without_enforcement_they_are_only_counted() -> Result<()> {
    let lab = Lab::new()?;
    let daemon = Setup::new(&lab)?.config(&format!("syn_attack_protect = 0\n{}", config(""))).start()?;
    flood(&lab, Sources::RANDOM_IPV4, ACK, CLOSED)?.during(RATE, || {
        let stats = daemon.stats_when("the attack is seen", |stats| {
            kind(stats) == Some("stray") && stats.would_drop["stray_ack"] > 1000
        })?;
        ensure!(stats.totals.dropped == 0, "{:?}", stats.totals);
        Ok(())
    })
}

#[test]
fn below_the_threshold_nothing_happens() -> Result<()> {
    let lab = Lab::new()?;
    let daemon = Setup::new(&lab)?.config(&config("")).start()?;
    for (_, flags, port) in KINDS {
        flood(&lab, Sources::RANDOM_IPV4, flags, port)?.send_at(3000, Duration::from_millis(600))?;
    }
    let stats = daemon.stats()?;
    ensure!(stats.state == "calm" && stats.totals.dropped == 0, "{:?}", stats.totals);
    Ok(())
}

/// A host that publishes a port of a container: the connections to it have no socket here.
#[test]
fn connections_without_a_socket_here_are_not_taken_for_strays() -> Result<()> {
    let lab = Lab::new()?;
    let _nginx = Nginx::start(&lab, &[PORT])?;
    let behind = redirect::host_behind(&lab)?;
    redirect::publish(&lab)?;
    let inside = server::listen(&behind, redirect::BEHIND.into(), 80)?;
    let daemon = Setup::new(&lab)?.config(&config("")).start()?;
    let published = SocketAddr::from((SERVER_IPV4, redirect::PUBLISHED));
    let client = lab::Client::new(&lab);
    let mut connection = client.connect(published)?;
    let (mut end, _) = inside.accept().context("cannot accept the connection")?;
    client.fetch((SERVER_IPV4, PORT).into())?;
    flood(&lab, Sources::RANDOM_IPV4, ACK, PORT)?.during(RATE, || {
        let is_found = |stats: &Stats| kind(stats) == Some("stray") && stats.drops["stray_ack"] > 1000;
        daemon.stats_when("strays are dropped", is_found)?;
        connection.write_all(b"alive").context("cannot write to the connection")?;
        end.set_read_timeout(Some(Duration::from_millis(900))).context("cannot set the timeout")?;
        end.read_exact(&mut [0; 5]).context("nothing arrives over the connection")?;
        client.connect(published).map(drop)
    })?;
    daemon.stats_when("the flood is over", |stats| stats.state == "calm")?;
    // Nor are segments to that port looked up, flood or not.
    let before = daemon.stats()?.drops;
    flood(&lab, Sources::RANDOM_IPV4, ACK, redirect::PUBLISHED)?.send_at(RATE, Duration::from_secs(1))?;
    let after = daemon.stats()?.drops;
    ensure!(after == before, "segments to the published port were dropped: {before:?} {after:?}");
    Ok(())
}

/// A peer whose connection this host has forgotten sends its segment again, and gets the reset that it needs.
#[test]
fn whoever_sends_again_is_answered_during_a_flood() -> Result<()> {
    let lab = Lab::new()?;
    let daemon = Setup::new(&lab)?.config(&config("")).start()?;
    let wire = Wire::open(&lab.client)?;
    let lost = Frame::syn(IpAddr::from([198, 18, 77, 7]), SERVER_IPV4.into(), CLOSED).flags(ACK);
    flood(&lab, Sources::RANDOM_IPV4, ACK, CLOSED)?.during(RATE, || {
        daemon.stats_when("strays are dropped", |stats| stats.drops["stray_ack"] > 1000)?;
        wire.send(&lost)?;
        ensure!(wire.answer_to(&lost).is_err(), "the first one is answered");
        for _ in 0..3 {
            wire.send(&lost)?;
        }
        let answer = wire.answer_to(&lost).context("one sent again is not answered")?;
        ensure!(answer.flags & RST != 0, "{answer:?}");
        Ok(())
    })
}

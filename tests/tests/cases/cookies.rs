//! Cookies under attack: only the first ACK with the right cookie, from the source and for the port that it was issued
//! for, makes a connection; and floods of stray segments are dropped.

#![expect(clippy::expect_used, reason = "constants of the test, which always parse")]

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lab::{
    Client, Daemon, Flood, FloodSpec, Lab, Setup, Sources,
    client::connect_from_port,
    daemon::challenge_of,
    frame::{ACK, FIN, Frame, PSH, RST},
    network::{CLIENT_IPV4, SERVER_IPV4, SERVER_IPV6},
    server,
    wire::{Answer, Wire, completion, linux_syn},
};

const PORT: u16 = 443;
const ALWAYS: &str = "interfaces = [\"lab-server\"]\n[challenge]\nmode = \"always\"\n";

/// A server whose port is always challenged, and on which a handshake was completed, so that the stray filter is
/// active.
struct Fixture {
    lab: Lab,
    daemon: Daemon,
    listener: TcpListener,
    wire: Wire,
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

impl Fixture {
    fn new() -> Result<Self> {
        Self::with(ALWAYS)
    }

    fn with(config: &str) -> Result<Self> {
        let lab = Lab::new()?;
        let listener = server::listen(&lab.server, SERVER_IPV4.into(), PORT)?;
        listener.set_nonblocking(true).context("cannot make the listener non-blocking")?;
        let daemon = Setup::new(&lab)?.config(config).start()?;
        let wire = Wire::open(&lab.client)?;
        let fixture = Self { lab, daemon, listener, wire };
        fixture.daemon.stats_when("the port is challenged", |stats| challenge_of(stats, PORT) == Some("cookie"))?;
        drop(fixture.connect()?);
        fixture.daemon.stats_when("the port is guarded", |stats| {
            stats.measures.challenge.ports.iter().any(|port| port.port == PORT && port.guarded)
        })?;
        Ok(fixture)
    }

    /// Checks the method by which the port is challenged, for longer than the watchdog waits for a handshake.
    fn stays_challenged(&self, is_right: impl Fn(Option<&str>) -> bool) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(2500) {
            let stats = self.daemon.stats()?;
            ensure!(is_right(challenge_of(&stats, PORT)), "{:?}", stats.measures.challenge);
            sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Opens a connection and returns its client and server end.
    fn connect(&self) -> Result<(TcpStream, TcpStream)> {
        let client = Client::new(&self.lab).connect((SERVER_IPV4, PORT).into())?;
        Ok((client, self.accept()?))
    }

    /// Accepts one connection.
    fn accept(&self) -> Result<TcpStream> {
        let server =
            lab::eventually("the connection is accepted", || Ok(self.listener.accept().ok()), Option::is_some)?;
        let (server, _) = server.context("cannot accept the connection")?;
        server.set_nonblocking(false).context("cannot make the connection blocking")?;
        Ok(server)
    }

    /// Accepts all connections, after a delay for segments under way, and returns their number.
    fn accept_all(&self) -> usize {
        sleep(Duration::from_millis(200));
        std::iter::from_fn(|| self.listener.accept().ok()).count()
    }

    fn drops(&self) -> Result<BTreeMap<String, u64>> {
        // The daemon reads the counters with each tick.
        sleep(Duration::from_millis(250));
        Ok(self.daemon.stats()?.drops)
    }
}

#[test]
fn only_the_right_cookie_makes_a_connection_and_only_once() -> Result<()> {
    let fixture = Fixture::new()?;
    let syn = linux_syn(address("198.18.20.1"), SERVER_IPV4.into(), PORT);
    let answer = fixture.wire.ask(&syn)?;
    let right = completion(&syn, &answer);
    let before = fixture.drops()?;
    let wrong = [
        ("another source", Frame { source: address("198.18.20.2"), ..right.clone() }),
        ("another source port", Frame { source_port: 40_001, ..right.clone() }),
        ("another first sequence number", Frame { sequence: right.sequence.wrapping_add(100), ..right.clone() }),
        ("a cookie next to it", Frame { acknowledgement: right.acknowledgement.wrapping_add(1), ..right.clone() }),
        (
            "a cookie of another minute",
            Frame { acknowledgement: right.acknowledgement.wrapping_add(1 << 24), ..right.clone() },
        ),
        ("no cookie", Frame { acknowledgement: 0, ..right.clone() }),
    ];
    for (name, frame) in &wrong {
        fixture.wire.send(frame)?;
        ensure!(fixture.accept_all() == 0, "{name} made a connection");
    }
    let after = fixture.drops()?;
    let dropped = after["stray_ack"] - before["stray_ack"];
    ensure!(dropped == wrong.len() as u64, "{dropped} of {} segments were dropped: {after:?}", wrong.len());
    fixture.wire.send(&right)?;
    ensure!(fixture.accept_all() == 1, "the right cookie made no connection");
    Ok(())
}

#[test]
fn a_cookie_for_another_port_makes_no_connection() -> Result<()> {
    let fixture = Fixture::new()?;
    let other = server::listen(&fixture.lab.server, SERVER_IPV4.into(), 444)?;
    other.set_nonblocking(true).context("cannot make the listener non-blocking")?;
    fixture.daemon.stats_when("both ports are challenged", |stats| {
        [PORT, 444].iter().all(|port| stats.measures.challenge.ports.iter().any(|challenged| challenged.port == *port))
    })?;
    let syn = linux_syn(address("198.18.20.1"), SERVER_IPV4.into(), PORT);
    let answer = fixture.wire.ask(&syn)?;
    fixture.wire.send(&Frame { destination_port: 444, ..completion(&syn, &answer) })?;
    ensure!(fixture.accept_all() == 0 && other.accept().is_err(), "the cookie made a connection on another port");
    Ok(())
}

#[test]
fn a_client_uses_its_port_again_while_the_server_waits() -> Result<()> {
    let fixture = Fixture::with(&format!("{ALWAYS}proven_for = \"1s\"\n"))?;
    let port = SocketAddr::from((CLIENT_IPV4, 40_404));
    let converse = || -> Result<()> {
        let open = || connect_from_port(port, (SERVER_IPV4, PORT).into());
        let mut client = fixture.lab.client.within(open)?;
        let mut server = fixture.accept()?;
        server.write_all(b"hello")?;
        // The end that closes first is in TIME_WAIT afterwards.
        drop(server);
        client.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut heard = String::new();
        client.read_to_string(&mut heard).context("the server was not heard")?;
        ensure!(heard == "hello", "{heard}");
        Ok(())
    };
    converse()?;
    // The source is no longer proven then.
    sleep(Duration::from_millis(1500));
    let failed = || Ok(fixture.daemon.stats()?.measures.challenge.failed);
    let before = failed()?;
    converse().context("with a port whose connection is in TIME_WAIT")?;
    lab::eventually("the SYN is counted as passed to the kernel", failed, |failed| *failed == before + 1).map(drop)
}

#[test]
fn a_replayed_segment_makes_no_second_connection() -> Result<()> {
    let fixture = Fixture::new()?;
    let syn = linux_syn(address("198.18.20.1"), SERVER_IPV4.into(), PORT);
    let right = completion(&syn, &fixture.wire.ask(&syn)?);
    fixture.wire.send(&right)?;
    ensure!(fixture.accept_all() == 1, "the cookie made no connection");
    // Make sure that the connection is gone: the server may have reset it when it was dropped; otherwise the client
    // does.
    fixture.wire.send(&Frame { flags: RST, tcp_options: Vec::new(), ..right.clone() })?;
    sleep(Duration::from_millis(200));
    let before = fixture.drops()?;
    for _ in 0..3 {
        fixture.wire.send(&right)?;
        ensure!(fixture.accept_all() == 0, "the replayed segment made a connection");
    }
    let after = fixture.drops()?;
    let dropped = |reason: &str| after[reason] - before[reason];
    ensure!(dropped("spent_cookie") + dropped("stray_ack") == 3 || dropped("spent_cookie") == 3, "{after:?}");
    Ok(())
}

#[test]
fn floods_of_segments_without_a_connection_are_dropped_to_the_last() -> Result<()> {
    let fixture = Fixture::new()?;
    let (mut client, mut server) = fixture.connect()?;
    for (reason, flags) in [("stray_ack", ACK), ("stray_ack", ACK | PSH), ("stray_fin", FIN | ACK), ("stray_rst", RST)]
    {
        let spec = FloodSpec { flags, tcp_options: Vec::new(), ..FloodSpec::syn(Sources::RANDOM_IPV4, PORT) };
        let before = fixture.daemon.stats()?;
        let sent = Flood::new(&fixture.lab, &spec)?.send_at(100_000, Duration::from_millis(500))?;
        let expected = before.drops[reason] + sent;
        fixture.daemon.stats_when(reason, |stats| stats.drops[reason] == expected)?;
        // An established connection is not affected.
        client.write_all(b"alive").context("cannot write to the connection")?;
        server.read_exact(&mut [0; 5]).context("nothing arrives over the connection")?;
        drop(fixture.connect()?);
    }
    ensure!(fixture.accept_all() == 0, "a flood made a connection");
    let totals = fixture.daemon.stats()?.totals;
    let sum = totals.passed + totals.dropped + totals.challenged;
    ensure!(sum == totals.packets, "{totals:?}");
    Ok(())
}

#[test]
fn guessed_cookies_make_no_connection() -> Result<()> {
    let fixture = Fixture::new()?;
    let spec = FloodSpec { flags: ACK, tcp_options: Vec::new(), ..FloodSpec::syn(Sources::RANDOM_IPV4, PORT) };
    Flood::new(&fixture.lab, &spec)?.send_at(100_000, Duration::from_secs(5))?;
    ensure!(fixture.accept_all() == 0, "a guessed cookie made a connection");
    Ok(())
}

#[test]
fn cookies_with_wrong_checksums_do_not_end_the_challenge() -> Result<()> {
    let fixture = Fixture::new()?;
    for source in 1..=12 {
        let syn = linux_syn(address(&format!("198.18.20.{source}")), SERVER_IPV4.into(), PORT);
        let answer = fixture.wire.ask(&syn)?;
        let mut frame = completion(&syn, &answer).build();
        frame.bytes[frame.tcp + 16] ^= 0x55;
        fixture.wire.send_bytes(&frame.bytes)?;
    }
    fixture.stays_challenged(|method| method == Some("cookie"))?;
    ensure!(fixture.accept_all() == 0, "a segment with a wrong checksum made a connection");
    Ok(())
}

#[test]
fn cookies_that_lead_to_nothing_do_not_end_the_challenge_altogether() -> Result<()> {
    let fixture = Fixture::new()?;
    for source in 1..=12 {
        let syn = linux_syn(address(&format!("198.18.20.{source}")), SERVER_IPV4.into(), PORT);
        let answer = fixture.wire.ask(&syn)?;
        // The kernel reads the options from the timestamp that the client returns: it discards what it did not send.
        fixture.wire.send(&completion(&syn, &Answer { timestamp: !answer.timestamp, ..answer }))?;
    }
    fixture.stays_challenged(|method| method.is_some())
}

/// Fails on a tcpguard that knows a few hundred addresses of the host and single ones only: it cannot send cookies then.
#[test]
fn a_host_with_too_many_networks_says_so_at_its_start_and_asks_for_resets() -> Result<()> {
    let lab = Lab::new()?;
    let networks: String =
        (0..1100).map(|n| format!("route add local 10.{}.{}.0/24 dev lo\n", 90 + n / 200, n % 200)).collect();
    lab.server.ip_batch(&networks)?;
    let listener = lab.server.within(|| TcpListener::bind(("::", PORT)).context("cannot listen"))?;
    let daemon = Setup::new(&lab)?.config(ALWAYS).start()?;
    daemon.stats_when("the port is challenged", |stats| challenge_of(stats, PORT) == Some("reset"))?;
    drop(Client::new(&lab).connect((SERVER_IPV4, PORT).into())?);
    drop(listener.accept().context("cannot accept")?);
    let log = daemon.log()?;
    ensure!(log.matches("the host has too many addresses").count() == 1, "{log}");
    Ok(())
}

#[test]
fn a_host_with_ten_thousand_addresses_and_whole_networks_sends_cookies() -> Result<()> {
    let lab = Lab::new()?;
    let first = Ipv4Addr::new(10, 70, 0, 0);
    let addresses = lab.add_server_addresses(first, 10_000)?;
    // AnyIP: the host accepts connections to every address of the network.
    lab.server.ip("route add local 10.80.0.0/16 dev lo")?;
    lab.server.ip("-6 route add local 2001:db8:80::/48 dev lo")?;
    lab.client.ip(&format!("route add 10.80.0.0/16 via {SERVER_IPV4}"))?;
    lab.client.ip(&format!("-6 route add 2001:db8:80::/48 via {SERVER_IPV6}"))?;
    let listener = lab.server.within(|| TcpListener::bind(("::", PORT)).context("cannot listen"))?;
    let daemon = Setup::new(&lab)?.config(ALWAYS).start()?;
    daemon.stats_when("the port is challenged", |stats| challenge_of(stats, PORT) == Some("cookie"))?;

    let some = addresses.iter().step_by(500).copied().map(IpAddr::from);
    let networks = ["10.80.0.1", "10.80.255.254", "2001:db8:80:1::1", "2001:db8:80:ffff::7"].map(address);
    let all: Vec<IpAddr> = some.chain(networks).collect();
    for address in &all {
        drop(Client::new(&lab).connect((*address, PORT).into()).with_context(|| format!("to {address}"))?);
        drop(listener.accept().context("cannot accept")?);
    }
    let number = all.len() as u64;
    let stats = daemon.stats_when("all were counted", |stats| stats.totals.completed == number)?;
    let challenge = &stats.measures.challenge;
    ensure!(challenge.no_cookies.is_none() && challenge.left_alone.is_empty(), "{challenge:?}");
    // From the second on, the client is proven.
    ensure!(challenge.cookies_returned >= 1 && challenge.failed == 0, "{challenge:?}");
    ensure!(stats.totals.syn_forwarded == 0, "{:?}", stats.totals);

    let explained = daemon.tcpguard(&["explain", "198.51.100.9:4000", "10.80.3.3:443"])?;
    let text = String::from_utf8_lossy(&explained.stdout).into_owned();
    ensure!(explained.status.success() && text.contains("at challenge"), "{text}");

    // One that is in between belongs to another host.
    let elsewhere = Frame::syn(CLIENT_IPV4.into(), Ipv4Addr::from(u32::from(first) + 1).into(), PORT);
    Wire::open(&lab.client)?.send(&elsewhere)?;
    daemon.stats_when("a SYN for another host is told apart", |stats| stats.totals.syn_forwarded == 1)?;
    Ok(())
}

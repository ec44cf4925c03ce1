//! What an operator reads about an attack, and about what is not one yet.

use std::{
    net::{IpAddr, Ipv4Addr},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use lab::{
    Client, Flood, FloodSpec, Lab, Setup, Sources, Stats,
    network::{CLIENT_IPV4, DISCARD_PORT, SERVER_INTERFACE, SERVER_IPV4},
    said,
    server::listen,
};
use nix::sys::socket::Backlog;

fn shows(stats: &Stats, text: &str) -> bool {
    stats.attack.as_ref().is_some_and(|attack| attack.evidence.iter().any(|line| line.contains(text)))
}

#[test]
fn the_signs_of_forged_sources_are_listed() -> Result<()> {
    let lab = Lab::new()?;
    let config = format!("interfaces = [\"{SERVER_INTERFACE}\"]\n[thresholds]\nhold = \"2s\"");
    let daemon = Setup::new(&lab)?.config(&config).start()?;
    let mut spec = FloodSpec::syn(Sources::RANDOM_IPV4, DISCARD_PORT);
    (spec.time_to_live, spec.tcp_options) = (57, Vec::new());
    let mut flood = Flood::new(&lab, &spec)?;
    let loopback = Sources::InTurn(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1)), 50);
    let mut impossible = Flood::new(&lab, &FloodSpec::syn(loopback, DISCARD_PORT))?;
    flood.during(20_000, || {
        daemon.stats_when("the TTL is shown", |stats| shows(stats, "arrive with TTL 57, whichever of about"))?;
        daemon.stats_when("the missing options are shown", |stats| shows(stats, "have no TCP options"))?;
        impossible.send(500)?;
        let stats =
            daemon.stats_when("the impossible sources are shown", |stats| shows(stats, "no remote host has"))?;
        ensure!(stats.drops["impossible_source"] == 500, "{:?}", stats.drops);

        // The kernel has no rows for what is answered with cookies.
        let listing = said(&daemon.tcpguard(&["half-open"])?);
        ensure!(listing.contains("note: tcpguard answers SYNs to port 9 with cookies"), "{listing}");
        let report = daemon.json("/half-open")?;
        ensure!(report["datapath"].as_u64() > Some(1000), "{report}");
        Ok(())
    })?;
    daemon.stats_when("the attack is over", |stats| stats.attack.is_none()).map(drop)
}

#[test]
fn clients_show_none_of_them() -> Result<()> {
    let lab = Lab::new()?;
    let _listener = listen(&lab.server, SERVER_IPV4.into(), 80)?;
    let daemon = Setup::new(&lab)?.start()?;
    let connections: Vec<_> =
        (0..100).map(|_| Client::new(&lab).connect((SERVER_IPV4, 80).into())).collect::<Result<_>>()?;
    let report = daemon.json("/half-open")?;
    ensure!(report.get("note").is_none() && report["datapath"] == 0, "{report}");
    let why = said(&daemon.tcpguard(&["why", &CLIENT_IPV4.to_string()])?);
    ensure!(why.contains("Grade of the evidence: completed"), "{why}");
    ensure!(daemon.json(&format!("/sources/{CLIENT_IPV4}"))?["grade"] == "completed");
    drop(connections);
    Ok(())
}

#[test]
fn an_sshd_with_many_half_open_handshakes_is_noticed_below_the_threshold() -> Result<()> {
    let lab = Lab::new()?;
    lab.server.sysctl("net.core.somaxconn", "4096")?;
    let sshd = listen(&lab.server, SERVER_IPV4.into(), 22)?;
    nix::sys::socket::listen(&sshd, Backlog::new(4096)?)?;
    let daemon = Setup::new(&lab)?.start()?;
    let sources = Sources::InTurn(IpAddr::V4(Ipv4Addr::new(198, 18, 3, 1)), 18);
    let mut flood = Flood::new(&lab, &FloodSpec::syn(sources, 22))?;
    // No more at a time than the veth queue holds.
    (0..6).try_for_each(|_| flood.send(54).map(drop))?;
    let notices =
        || daemon.tcpguard(&["events"]).map(|output| said(&output).matches("handshakes are half open").count());
    lab::eventually("the port is reported", notices, |count| *count == 1)?;
    let events = said(&daemon.tcpguard(&["events"])?);
    ensure!(events.contains("port 22: 324 handshakes are half open"), "{events}");
    thread::sleep(Duration::from_secs(2));
    ensure!(notices()? == 1, "it is reported again");
    let stats = daemon.stats()?;
    ensure!(stats.state == "calm" && stats.measures.kernel_settings.is_empty(), "{:?}", stats.measures);
    ensure!(stats.measures.challenge.ports.is_empty(), "{:?}", stats.measures.challenge);
    let why = said(&daemon.tcpguard(&["why", "198.18.3.1"])?);
    ensure!(why.contains("Grade of the evidence: forgeable"), "{why}");
    Ok(())
}

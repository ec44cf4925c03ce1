//! Without an attack, counts are exact by source, by port and in total, and the kernel's half-open handshakes are those
//! that `ss` shows.

#![expect(clippy::expect_used, reason = "constants of the test, which always parse")]

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Result, ensure};
use lab::{
    Client, Daemon, Flood, FloodSpec, Lab, Setup, Sources, eventually, frame, oracle,
    server::{self, Nginx},
};

const SOURCES: u64 = 20;
const SYNS_PER_SOURCE: u64 = 10;
const CONNECTIONS_PER_CLIENT: u64 = 5;

/// The addresses of one family that a test uses.
struct Family {
    server: SocketAddr,
    first_source: IpAddr,
    clients: [IpAddr; 3],
}

fn ipv4() -> Family {
    Family {
        server: "198.18.0.1:80".parse().expect("an address"),
        first_source: "198.18.1.1".parse().expect("an address"),
        clients: ["198.18.2.1", "198.18.2.2", "198.18.3.1"].map(|text| text.parse().expect("an address")),
    }
}

fn ipv6() -> Family {
    Family {
        server: "[2001:db8::1]:80".parse().expect("an address"),
        first_source: "2001:db8:1::1".parse().expect("an address"),
        clients: ["2001:db8:2::1", "2001:db8:2::2", "2001:db8:3::1"].map(|text| text.parse().expect("an address")),
    }
}

fn start(lab: &Lab) -> Result<(Nginx, Daemon)> {
    let nginx = Nginx::start(lab, &[80])?;
    Ok((nginx, Setup::new(lab)?.start()?))
}

fn counts_are_exact(family: &Family) -> Result<()> {
    let lab = Lab::new()?;
    let (_nginx, daemon) = start(&lab)?;
    let mut flood = Flood::new(&lab, &FloodSpec::syn(Sources::InTurn(family.first_source, SOURCES), 80))?;

    let half_open = SOURCES * SYNS_PER_SOURCE;
    flood.send(half_open as u32)?;
    let completed = family.clients.len() as u64 * CONNECTIONS_PER_CLIENT;
    // If a slow machine answers late, the client's kernel retransmits the SYN.
    let mut syns_of_clients = HashMap::new();
    for client in family.clients {
        lab.add_client_address(client)?;
        let before = oracle::syns_sent(&lab.client)?;
        for _ in 0..CONNECTIONS_PER_CLIENT {
            Client::new(&lab).from(client).fetch(family.server)?;
        }
        syns_of_clients.insert(client, oracle::syns_sent(&lab.client)? - before);
    }
    let syns = half_open + syns_of_clients.values().sum::<u64>();

    let stats = daemon.stats_when("all SYNs and completions are counted", |stats| {
        stats.totals.syn == syns
            && stats.totals.completed == completed
            && stats.half_open.datapath == half_open
            && stats.half_open.kernel == half_open
            && stats.ports.iter().any(|port| port.port == 80 && port.syn == syns)
    })?;
    ensure!(stats.totals.packets == stats.totals.passed, "packets were dropped: {stats:?}");
    ensure!(
        stats.totals.syn_repeated == syns - half_open - completed,
        "the retransmits of clients were not counted: {stats:?}"
    );
    ensure!(stats.tracking.syn_untracked == 0, "a source has no entry: {stats:?}");

    let sources = daemon.json("/sources?limit=100")?;
    let rows = sources.as_array().expect("an array");
    ensure!(rows.len() as u64 == SOURCES + family.clients.len() as u64, "{sources}");
    for row in rows {
        let address: IpAddr = row["source"].as_str().unwrap_or_default().parse()?;
        let expected = match syns_of_clients.get(&address) {
            Some(syns) => (*syns, CONNECTIONS_PER_CLIENT, 0, true),
            None => (SYNS_PER_SOURCE, 0, SYNS_PER_SOURCE, false),
        };
        let counted = (
            row["syn"].as_u64().unwrap_or_default(),
            row["completed"].as_u64().unwrap_or_default(),
            row["half_open"].as_u64().unwrap_or_default(),
            row["proven"].as_bool().unwrap_or_default(),
        );
        ensure!(counted == expected, "{row}: expected {expected:?}");
    }

    let port = stats.ports.iter().find(|port| port.port == 80).expect("nginx listens on port 80");
    ensure!(port.syn == syns && port.completed == completed, "{port:?}");
    ensure!(port.half_open == half_open && port.backlog > 0, "{port:?}");

    network_is_accounted(&daemon, half_open)?;
    kernel_rows_are_those_of_ss(&lab, &daemon, half_open)
}

/// Checks the account of the flood's network, which is exact: the first network keeps a cell even if others hash to it.
fn network_is_accounted(daemon: &Daemon, half_open: u64) -> Result<()> {
    daemon.stats_when("the flood's network has an account", |stats| {
        stats.prefixes.iter().any(|prefix| prefix.syn == half_open && prefix.ended == 0)
    })?;
    Ok(())
}

/// Checks that rows and retransmits equal those of `ss`, after the SYN-ACKs were retransmitted.
fn kernel_rows_are_those_of_ss(lab: &Lab, daemon: &Daemon, half_open: u64) -> Result<()> {
    let look = || -> Result<_> {
        let before = oracle::syn_recv(&lab.server)?;
        let report = daemon.json("/half-open")?;
        let stats = daemon.stats()?;
        Ok((before, report, stats, oracle::syn_recv(&lab.server)?))
    };
    let all_retried = |rows: &[oracle::SynRecv]| rows.len() as u64 == half_open && rows.iter().all(|row| row.2 > 0);
    let (ss, report, ..) = eventually("every SYN-ACK was retransmitted, and counted as such", look, |seen| {
        // The output of ss must not have changed during the requests, since the two responses may be of different
        // readings.
        seen.0 == seen.3
            && all_retried(&seen.0)
            && seen.1["retried"] == half_open
            && seen.2.half_open.kernel_retried == half_open
    })?;
    let mut rows: Vec<oracle::SynRecv> = report["rows"]
        .as_array()
        .expect("an array")
        .iter()
        .map(|row| {
            let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
            (text("local"), text("remote"), row["retransmits"].as_u64().unwrap_or_default() as u8)
        })
        .collect();
    rows.sort();
    ensure!(rows == ss, "tcpguard's rows are not those of ss:\n{rows:?}\n{ss:?}");
    ensure!(report["total"] == half_open && report["retried"] == half_open, "{report}");
    let by_source = || -> Result<u64> {
        let sources = daemon.json("/sources?limit=100")?;
        Ok(sources.as_array().into_iter().flatten().filter_map(|row| row["retried"].as_u64()).sum())
    };
    // A tick reads the kernel's rows after the sources: those of its report may be older.
    eventually("every retransmitted SYN-ACK is counted by source", by_source, |retried| *retried >= half_open)?;
    Ok(())
}

#[test]
fn ipv4_counts_are_exact() -> Result<()> {
    counts_are_exact(&ipv4())
}

#[test]
fn ipv6_counts_are_exact() -> Result<()> {
    counts_are_exact(&ipv6())
}

#[test]
fn ends_of_handshakes_are_accounted_to_their_network() -> Result<()> {
    for (family, network) in [(ipv4(), "198.18.0.0/24"), (ipv6(), "2001:db8::/64")] {
        let lab = Lab::new()?;
        let (_nginx, daemon) = start(&lab)?;
        for _ in 0..7 {
            Client::new(&lab).fetch(family.server)?;
        }
        daemon.stats_when("seven handshakes began and seven ended", |stats| {
            let rows = &stats.prefixes;
            rows.len() == 1 && rows[0].prefix == network && rows[0].syn == 7 && rows[0].ended == 7
        })?;
    }
    Ok(())
}

#[test]
fn a_dual_stack_listener_completes_handshakes_of_both_families() -> Result<()> {
    let lab = Lab::new()?;
    // Its sockets are IPv6 sockets, with IPv4 peers as mapped addresses.
    let _listener = server::listen(&lab.server, "::".parse()?, 81)?;
    let daemon = Setup::new(&lab)?.start()?;
    for family in [ipv4(), ipv6()] {
        let server = SocketAddr::new(family.server.ip(), 81);
        for _ in 0..3 {
            Client::new(&lab).connect(server)?;
        }
        Flood::new(&lab, &FloodSpec::syn(Sources::InTurn(family.first_source, 2), 81))?.send(10)?;
    }
    daemon.stats_when("both families are counted", |stats| {
        stats.totals.completed == 6
            && stats.half_open.datapath == 20
            && stats.half_open.kernel == 20
            && stats.half_open.kernel_retried == 20
    })?;
    for (client, half_open) in [("198.18.0.2", "198.18.1.1"), ("2001:db8::2", "2001:db8:1::1")] {
        let row = daemon.source(client)?.expect("it has an entry");
        ensure!(row["syn"] == 3 && row["completed"] == 3 && row["half_open"] == 0, "{row}");
        let row = daemon.source(half_open)?.expect("it has an entry");
        ensure!(row["syn"] == 5 && row["half_open"] == 5 && row["retried"].as_u64() >= Some(5), "{row}");
    }
    let report = daemon.json("/half-open?port=81")?;
    ensure!(report["rows"].as_array().is_some_and(|rows| rows.len() == 20), "{report}");
    ensure!(!report.to_string().contains("::ffff:"), "IPv4 peers are shown as mapped addresses: {report}");
    Ok(())
}

#[test]
fn a_reset_ends_a_half_open_handshake() -> Result<()> {
    for family in [ipv4(), ipv6()] {
        let lab = Lab::new()?;
        let (_nginx, daemon) = start(&lab)?;
        // The client has this address but no such connections, so it resets each.
        let client = family.clients[0];
        lab.add_client_address(client)?;
        Flood::new(&lab, &FloodSpec::syn(Sources::InTurn(client, 1), 80))?.send(8)?;
        daemon.stats_when("every handshake was reset", |stats| {
            stats.totals.handshakes_reset == 8 && stats.half_open.datapath == 0 && stats.half_open.kernel == 0
        })?;
        let row = daemon.source(&client.to_string())?.expect("it has an entry");
        ensure!(row["syn"] == 8 && row["resets"] == 8 && row["half_open"] == 0, "{row}");
    }
    Ok(())
}

#[test]
fn a_reset_of_an_open_connection_is_no_reset_of_a_handshake() -> Result<()> {
    let family = ipv4();
    let lab = Lab::new()?;
    let (_nginx, daemon) = start(&lab)?;
    let source = family.clients[0];
    lab.add_client_address(source)?;
    // Three handshakes stay half-open, since no client has their source address …
    let mut half_open = FloodSpec::syn(Sources::InTurn(family.first_source, 1), 80);
    half_open.source_ports = (2000, 3);
    Flood::new(&lab, &half_open)?.send(3)?;
    // … while RSTs with a wrong sequence number arrive for them.
    let mut resets = half_open.clone();
    resets.flags = frame::RST;
    // The reset of a half-open handshake has no options.
    resets.tcp_options = Vec::new();
    resets.sequence = 77;
    Flood::new(&lab, &resets)?.send(3)?;
    daemon.stats_when("RSTs with a wrong sequence number are counted, and end no handshake", |stats| {
        stats.totals.rst == 3 && stats.half_open.datapath == 3 && stats.half_open.kernel == 3
    })?;
    // RSTs with the right sequence number end the handshakes, for the kernel and for the datapath.
    resets.sequence = half_open.sequence + 1;
    Flood::new(&lab, &resets)?.send(3)?;
    daemon.stats_when("RSTs with the right sequence number end the handshakes", |stats| {
        stats.totals.rst == 6 && stats.half_open.datapath == 0 && stats.half_open.kernel == 0
    })?;
    Ok(())
}

#[test]
fn a_syn_that_is_sent_again_is_no_new_handshake() -> Result<()> {
    for family in [ipv4(), ipv6()] {
        let lab = Lab::new()?;
        let (_nginx, daemon) = start(&lab)?;
        let spec = FloodSpec::syn(Sources::InTurn(family.first_source, 4), 80);
        for _ in 0..3 {
            Flood::new(&lab, &spec)?.send(40)?;
        }
        daemon.stats_when("each SYN is counted, and each handshake once", |stats| {
            stats.totals.syn == 120
                && stats.totals.syn_repeated == 80
                && stats.half_open.datapath == 40
                && stats.half_open.kernel == 40
        })?;
    }
    Ok(())
}

#[test]
fn every_kind_of_frame_is_counted_as_what_it_is() -> Result<()> {
    let lab = Lab::new()?;
    let daemon = Setup::new(&lab)?.start()?;
    let sources = Sources::InTurn("198.18.1.1".parse()?, 5);
    let syn = FloodSpec::syn(sources, 81);
    let kinds = [
        ("a plain SYN", syn.clone()),
        ("a SYN in a VLAN", FloodSpec { tags: vec![0x8100], ..syn.clone() }),
        ("a SYN in QinQ", FloodSpec { tags: vec![0x88a8, 0x8100], ..syn.clone() }),
        ("a SYN with IP options", FloodSpec { ip_options: vec![1; 8], ..syn.clone() }),
        ("a SYN with data", FloodSpec { payload: 10, ..syn.clone() }),
        ("a SYN with FIN", FloodSpec { flags: frame::SYN | frame::FIN, ..syn.clone() }),
        ("an ACK", FloodSpec { flags: frame::ACK, ..syn.clone() }),
        ("a SYN-ACK", FloodSpec { flags: frame::SYN | frame::ACK, ..syn.clone() }),
        ("a RST", FloodSpec { flags: frame::RST, ..syn.clone() }),
        ("no flag", FloodSpec { flags: 0, ..syn }),
    ];
    for (index, (what, spec)) in kinds.into_iter().enumerate() {
        // Each kind uses other ports; otherwise its SYNs would count as retransmits.
        let spec = FloodSpec { source_ports: (2000 + 100 * index as u16, 100), ..spec };
        Flood::new(&lab, &spec).and_then(|mut flood| flood.send(100)).map_err(|error| error.context(what))?;
    }
    let stats = daemon.stats_when("every frame is counted", |stats| {
        let totals = &stats.totals;
        totals.syn + totals.syn_ack + totals.ack + totals.rst + totals.bad_flags >= 1000
    })?;
    let totals = &stats.totals;
    ensure!(totals.syn == 500 && totals.syn_with_payload == 100, "{totals:?}");
    ensure!(totals.ack == 100 && totals.syn_ack == 100 && totals.rst == 100, "{totals:?}");
    ensure!(totals.bad_flags == 200 && totals.syn_repeated == 0, "{totals:?}");
    Ok(())
}

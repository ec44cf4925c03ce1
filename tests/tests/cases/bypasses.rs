//! What an attacker who has read the source code tries to get past lists and challenges.

#![expect(clippy::expect_used, reason = "constants of the test, which always parse")]

use std::{
    net::{IpAddr, SocketAddr},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use lab::{
    Client, Lab, Setup,
    daemon::challenge_of,
    frame::Frame,
    md5,
    network::{CLIENT_IPV4, SERVER_INTERFACE, SERVER_IPV4},
    oracle, server,
    wire::{Wire, linux_syn},
};
use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    signal::Signal,
};

const PORT: u16 = 443;
const KEY: &[u8] = b"a secret that both ends know";

/// Returns the configuration that guards the lab's interface, with these sections.
fn guarding(sections: &str) -> String {
    format!("interfaces = [\"{SERVER_INTERFACE}\"]\n{sections}")
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Sends a SYN in two fragments, the first with 16 bytes of TCP, and returns whether it was answered.
fn is_answered_in_fragments(wire: &Wire, syn: &Frame, first: usize) -> Result<bool> {
    for fragment in syn.fragments(first) {
        wire.send_bytes(&fragment)?;
    }
    Ok(wire.answer_to(syn).is_ok())
}

#[test]
fn a_denied_syn_in_fragments_is_not_answered() -> Result<()> {
    let lab = Lab::new()?;
    let _listener = server::listen(&lab.server, SERVER_IPV4.into(), PORT)?;
    let wire = Wire::open(&lab.client)?;
    let syn = |last: u8| linux_syn(IpAddr::from([198, 18, 20, last]), SERVER_IPV4.into(), PORT);
    ensure!(is_answered_in_fragments(&wire, &syn(1), 16)?, "without tcpguard, the kernel reassembles it");
    let daemon = Setup::new(&lab)?.config(&guarding("[lists]\ndeny = [\"198.18.20.2\"]")).start()?;
    ensure!(!is_answered_in_fragments(&wire, &syn(2), 16)?, "with a part of the TCP header in each");
    ensure!(!is_answered_in_fragments(&wire, &syn(2), 24)?, "with options in the second");
    ensure!(!is_answered_in_fragments(&wire, &syn(3), 16)?, "of a source that is not denied");
    let drops = daemon.stats_when("all fragments are counted", |stats| stats.totals.packets >= 6)?.drops;
    let counted = ["tiny_fragment", "fragmented_syn", "denied_fragment"].map(|reason| drops[reason]);
    ensure!(counted == [3, 0, 2], "{drops:?}");
    ensure!(!is_answered_in_fragments(&wire, &syn(3), 40)?, "with data alone in the second");
    Ok(())
}

/// Fails on a tcpguard whose table of ports holds 4,096: handshakes at the last port are not counted, and it is never
/// challenged.
#[test]
fn handshakes_at_thousands_of_ports_leave_room_for_the_next() -> Result<()> {
    const PORTS: u16 = 4200;
    let lab = Lab::new()?;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("cannot raise the number of open files")?;
    let listeners: Result<Vec<_>> =
        (10_000..10_000 + PORTS).map(|port| server::listen(&lab.server, SERVER_IPV4.into(), port)).collect();
    let daemon = Setup::new(&lab)?.config(&guarding("")).start()?;
    let client = Client::new(&lab);
    for port in 10_000..10_000 + PORTS {
        drop(client.connect((SERVER_IPV4, port).into())?);
    }
    let _last = server::listen(&lab.server, SERVER_IPV4.into(), PORT)?;
    drop(client.connect((SERVER_IPV4, PORT).into())?);
    daemon.stats_when("the last one is counted", |stats| {
        stats.ports.iter().any(|port| port.port == PORT && port.completed == 1)
    })?;
    drop(listeners?);
    Ok(())
}

#[test]
fn syns_that_claim_to_be_signed_do_not_get_past_the_challenge() -> Result<()> {
    let lab = Lab::new()?;
    let _listener = server::listen(&lab.server, SERVER_IPV4.into(), PORT)?;
    let config = guarding("[challenge]\nmode = \"always\"\n[lists]\nallow = [\"198.18.21.1\"]");
    let daemon = Setup::new(&lab)?.config(&config).start()?;
    daemon.stats_when("the port is challenged", |stats| challenge_of(stats, PORT) == Some("cookie"))?;
    let wire = Wire::open(&lab.client)?;
    let unexpected = || oracle::tcp_ext(&lab.server, "TCPMD5Unexpected");
    let signed = |kind: u8, source: &str, source_port: u16| {
        let tcp_options = [&[2, 4, 5, 0xb4, 1, 1, kind, 18][..], &[7; 16]].concat();
        Frame { source_port, tcp_options, ..linux_syn(address(source), SERVER_IPV4.into(), PORT) }
    };
    for port in 0..50 {
        wire.send(&signed(19, "198.18.20.1", 2000 + port))?;
        wire.send(&signed(29, "198.18.20.1", 3000 + port))?;
    }
    let stats = daemon.stats_when("all are dropped", |stats| stats.drops["signed_syn"] == 100)?;
    ensure!((stats.totals.syn, stats.totals.dropped, stats.totals.challenged) == (100, 100, 0), "{:?}", stats.totals);
    ensure!(unexpected()? == 0, "{} reached the kernel", unexpected()?);
    // An allowed source is never dropped; the kernel has no key and refuses it.
    wire.send(&signed(19, "198.18.21.1", 2000))?;
    lab::eventually("the kernel receives it", unexpected, |unexpected| *unexpected == 1).map(drop)
}

#[test]
fn sessions_with_md5_signatures_work_in_calm_and_while_challenged() -> Result<()> {
    let lab = Lab::new()?;
    let listener = server::listen(&lab.server, SERVER_IPV4.into(), PORT)?;
    md5::set_key(&listener, CLIENT_IPV4.into(), KEY)?;
    let server = SocketAddr::from((SERVER_IPV4, PORT));
    let connect = || lab.client.within(|| md5::connect(server, KEY)).context("a signed session cannot be opened");
    let mut calm = Setup::new(&lab)?.config(&guarding("")).start()?;
    drop(connect()?);
    // The next daemon does not know the client.
    calm.end(Signal::SIGTERM)?;
    let daemon = Setup::new(&lab)?.config(&guarding("[challenge]\nmode = \"always\"")).start()?;
    daemon.stats_when("the port is challenged", |stats| challenge_of(stats, PORT) == Some("cookie"))?;
    sleep(Duration::from_millis(300));
    drop(connect()?);
    let stats = daemon.stats_when("it is counted", |stats| stats.totals.completed == 1)?;
    ensure!(stats.totals.dropped == 0 && stats.measures.challenge.failed == 1, "{:?}", stats.measures.challenge);
    // One without a key is not served by this listener for that address, challenged or not.
    ensure!(Client::new(&lab).connect(server).is_err(), "the kernel accepts it without a signature");
    Ok(())
}

//! Ways to disable the challenge, tried by somebody who knows the source code, during a spoofed flood. None of them makes
//! the port unchallenged, and a client at a distance that nobody knows is served in each case.

use std::{
    net::{IpAddr, Ipv4Addr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use lab::{
    Client, FloodSpec, Path, Scene, Sources, Stats,
    daemon::challenge_of,
    frame::{self, Frame},
    network::SERVER_IPV4,
    scene::WEB,
    wire::{Answer, Wire, completion, linux_syn},
};

/// The port whose challenge is to be disabled.
const PORT: u16 = WEB.port();
/// How long each way is tried: longer than the watchdog waits for a handshake of few networks.
const TRIED_FOR: Duration = Duration::from_secs(12);
const FAR_CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 62, 7);
/// A client that has to retransmit twice, at a round-trip time of 80 ms.
const TWO_RETRANSMITS: Duration = Duration::from_millis(3500);

/// What an attacker does again and again, beside the flood.
type Way = fn(&Attacker, round: u8) -> Result<()>;

/// What the port may be challenged with meanwhile.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Cookies all the time.
    Cookies,
    /// Cookies, or retransmits for a while.
    AnyChallenge,
}

struct Attacker {
    scene: Scene,
    wire: Wire,
}

impl Attacker {
    /// Requests a cookie from an address and a port of its own for each round, and returns it with a wrong timestamp,
    /// which the kernel discards. Where the first SYN is dropped instead, there is nothing to return.
    fn return_cookie(&self, source: [u8; 4], round: u8) -> Result<()> {
        let syn =
            Frame { source_port: 10_000 + u16::from(round), ..linux_syn(source.into(), SERVER_IPV4.into(), PORT) };
        let Ok(answer) = self.wire.ask(&syn) else { return Ok(()) };
        self.wire.send(&completion(&syn, &Answer { timestamp: !answer.timestamp, ..answer }))
    }
}

fn is_challenged(stats: &Stats, outcome: Outcome) -> bool {
    challenge_of(stats, PORT).is_some_and(|method| outcome == Outcome::AnyChallenge || method == "cookie")
}

fn try_to_disable(way: Way, outcome: Outcome) -> Result<()> {
    let scene = Scene::new("")?;
    let far = scene.lab.far_client(&[FAR_CLIENT.into()], Path::milliseconds(80), true)?;
    let wire = Wire::open(&scene.lab.client)?;
    let mut flood = scene.flood(&FloodSpec::syn(Sources::RANDOM_IPV4, PORT))?;
    let attacker = Attacker { scene, wire };
    flood.during(20_000, || {
        let daemon = &attacker.scene.daemon;
        daemon.stats_when("cookies are sent", |stats| is_challenged(stats, Outcome::Cookies))?;
        let start = Instant::now();
        let mut round = 0;
        while start.elapsed() < TRIED_FOR {
            way(&attacker, round)?;
            let stats = daemon.stats()?;
            ensure!(
                is_challenged(&stats, outcome),
                "after {:?} ({round} rounds): {:?}",
                start.elapsed(),
                stats.measures.challenge
            );
            round = round.wrapping_add(1);
            thread::sleep(Duration::from_millis(100));
        }
        let client = Client::in_namespace(&far.namespace).run(WEB, 5, Duration::from_secs(3), || true)?;
        ensure!(client.share() == 1.0, "the client: {:?}", client.troubles);
        ensure!(client.quantile(1.0) < TWO_RETRANSMITS, "the client: {:?}", client.troubles);
        let stats = daemon.stats()?;
        let (answered, dropped) = (stats.totals.challenged, stats.drops["first_syn"]);
        // Retransmits of the same forged SYN are rare; the rest arrived before the attack was recognised.
        let reached = stats.totals.syn - answered - stats.totals.dropped;
        ensure!(reached * 5 < stats.totals.syn, "{reached} SYNs reached the kernel: {answered}, {dropped}");
        Ok(())
    })
}

#[test]
#[ignore = "takes a quarter of a minute: cargo xtask test distance"]
fn silence() -> Result<()> {
    try_to_disable(|_, _| Ok(()), Outcome::Cookies)
}

#[test]
#[ignore = "takes a quarter of a minute: cargo xtask test distance"]
fn cookies_of_one_host_that_lead_to_nothing() -> Result<()> {
    try_to_disable(|attacker, round| attacker.return_cookie([198, 18, 20, 1], round), Outcome::AnyChallenge)
}

#[test]
fn cookies_of_six_hosts_that_lead_to_nothing() -> Result<()> {
    try_to_disable(|attacker, round| attacker.return_cookie([198, 18, 21 + round % 6, 1], round), Outcome::AnyChallenge)
}

#[test]
#[ignore = "takes a quarter of a minute: cargo xtask test distance"]
fn stale_cookies() -> Result<()> {
    fn replay(attacker: &Attacker, round: u8) -> Result<()> {
        // Each is completed, and its ACK sent again from then on.
        let source = IpAddr::from([198, 18, 30, round]);
        let syn = linux_syn(source, SERVER_IPV4.into(), PORT);
        let answer = attacker.wire.ask(&syn)?;
        for _ in 0..8 {
            attacker.wire.send(&completion(&syn, &answer))?;
        }
        // Cookies of another epoch: the kernel's count is in the upper bits.
        let old = Answer { sequence: answer.sequence.wrapping_sub(3 << 24), ..answer };
        (0..8).try_for_each(|_| attacker.wire.send(&completion(&syn, &old)))
    }
    try_to_disable(replay, Outcome::Cookies)
}

#[test]
#[ignore = "takes a quarter of a minute: cargo xtask test distance"]
fn syns_to_closed_ports() -> Result<()> {
    fn probe(attacker: &Attacker, round: u8) -> Result<()> {
        let spec = FloodSpec::syn(Sources::RANDOM_IPV4, 7000 + u16::from(round));
        attacker.scene.flood(&spec)?.send(200).map(drop)
    }
    try_to_disable(probe, Outcome::Cookies)
}

#[test]
#[ignore = "takes a quarter of a minute: cargo xtask test distance"]
fn syns_each_followed_by_a_reset() -> Result<()> {
    fn pairs(attacker: &Attacker, round: u8) -> Result<()> {
        // 20,000 pairs a second, as long as the round takes.
        let source = IpAddr::from([198, 18, 40, round]);
        let syn = FloodSpec { source_ports: (20_000, 2000), ..FloodSpec::syn(Sources::InTurn(source, 1), PORT) };
        let reset = FloodSpec { flags: frame::RST, sequence: syn.sequence + 1, ..syn.clone() };
        attacker.scene.flood(&syn)?.send_at(20_000, Duration::from_millis(100))?;
        attacker.scene.flood(&reset)?.send_at(20_000, Duration::from_millis(100)).map(drop)
    }
    try_to_disable(pairs, Outcome::Cookies)
}

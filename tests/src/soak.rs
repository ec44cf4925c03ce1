//! A soak test: floods from random sources, from one source, a pause, both alternating, and ACKs, in rounds. A client
//! runs all the time, every SYN is accounted for, and at the end everything is restored.

use std::{
    net::Ipv4Addr,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use tcpguard::api::model::Stats;

use crate::{
    client::Client,
    flood::{FloodSpec, Sources},
    frame::ACK,
    scene::{Scene, WEB},
};

/// Frames per second.
const RATE: u32 = 100_000;
/// How long each of two alternating floods sends at a time.
const TURN: Duration = Duration::from_millis(250);
/// A pause shorter than `thresholds.hold`.
const PAUSE: Duration = Duration::from_secs(1);
/// Limit for the growth of the daemon's resident memory.
const GROWTH_KIB: u64 = 16 * 1024;
/// Minimum share of connections served.
const MIN_SERVED: f64 = 0.999;
/// The client that connects at the end. No other test, which may run in parallel in another lab, uses its address.
const LAST_CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 201, 1);
/// Time after which the last cookie has expired and the settings are restored.
const COOKIES_EXPIRE: Duration = Duration::from_secs(130);

/// Runs `rounds` rounds of phases of the length `phase`, and waits until everything is restored.
///
/// # Errors
/// Returns an error if a check fails.
pub fn run(phase: Duration, rounds: u32) -> Result<()> {
    let mut scene = run_phases(phase, rounds)?;
    settings_come_back(&mut scene)
}

/// Runs `rounds` rounds of phases of the length `phase`.
///
/// # Errors
/// Returns an error if a check fails.
pub fn run_phases(phase: Duration, rounds: u32) -> Result<Scene> {
    let mut scene = Scene::new("")?;
    let random_spec = FloodSpec::syn(Sources::RANDOM_IPV4, WEB.port());
    let mut random = scene.flood(&random_spec)?;
    let one = Sources::InTurn([198, 18, 1, 1].into(), 1);
    let mut concentrated = scene.flood(&FloodSpec::syn(one, WEB.port()))?;
    let mut acks = scene.flood(&FloodSpec { flags: ACK, tcp_options: Vec::new(), ..random_spec })?;
    let memory_before = scene.daemon.resident_kib()?;
    let attack = scene.attack_by(|| {
        let mut syns = 0;
        for _ in 0..rounds {
            syns += random.send_at(RATE, phase)?;
            syns += concentrated.send_at(RATE, phase)?;
            sleep(PAUSE);
            let both = Instant::now();
            while both.elapsed() < phase {
                syns += random.send_at(RATE / 2, TURN)?;
                syns += concentrated.send_at(RATE / 2, TURN)?;
            }
            acks.send_at(RATE, phase)?;
        }
        Ok(syns)
    })?;
    let share = attack.client.share();
    println!("{} SYNs; {} connections, {:.3} % served", attack.sent, attack.client.tried, share * 100.0);
    ensure!(share >= MIN_SERVED, "only {share:.4} of {} connections were served", attack.client.tried);
    ensure!(scene.blocked()?.contains("198.18.1.1"), "{:?}", scene.blocked()?);
    adds_up(&scene, attack.sent)?;
    scene.back_to_calm(attack.ended)?;
    let memory = scene.daemon.resident_kib()?;
    ensure!(memory < memory_before + GROWTH_KIB, "resident memory grew from {memory_before} to {memory} KiB");
    scene.ssh_session_lives()?;
    Ok(scene)
}

/// Waits until the last cookie has expired and the daemon has restored the kernel settings.
///
/// # Errors
/// Returns an error if they are not restored in time.
pub fn settings_come_back(scene: &mut Scene) -> Result<()> {
    let deadline = Instant::now() + COOKIES_EXPIRE;
    while !scene.has_cookie_settings_back()? {
        ensure!(Instant::now() < deadline, "the settings for cookies were not restored within {COOKIES_EXPIRE:?}");
        sleep(Duration::from_millis(500));
    }
    let is_undone = |stats: &Stats| stats.measures.kernel_settings.is_empty();
    scene.daemon.stats_when("no kernel setting is changed", is_undone)?;
    scene.ssh_session_lives()?;
    scene.lab.add_client_address(LAST_CLIENT.into())?;
    Client::new(&scene.lab).from(LAST_CLIENT.into()).fetch(WEB).map(drop)
}

/// Checks that every SYN was counted, and every packet as passed, dropped or challenged.
///
/// # Errors
/// Returns an error if a packet is missing or counted twice.
pub fn adds_up(scene: &Scene, sent: u64) -> Result<()> {
    let from_client = scene.syns_of_clients()?;
    let is_settled = |stats: &Stats| stats.totals.syn >= sent + from_client;
    let stats = scene.daemon.stats_when("all SYNs are counted", is_settled)?;
    let totals = &stats.totals;
    ensure!(totals.syn == sent + from_client, "{sent} SYNs by the flood, {from_client} by clients: {totals:?}");
    let sum = totals.passed + totals.dropped + totals.challenged;
    ensure!(sum == totals.packets, "{totals:?}");
    Ok(())
}

//! Floods in phases, one after the other: random sources, one source, a pause, both in turn, ACKs. A real client goes
//! on all the while, every SYN is accounted for, and at the end everything is as it was.

use std::{
    net::Ipv4Addr,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::{
    client::Client,
    flood::{FloodSpec, Sources},
    frame::ACK,
    scene::{Scene, WEB},
};

const RATE: u32 = 100_000;
/// What both floods send in turn, of each.
const TURN: Duration = Duration::from_millis(250);
/// A pause shorter than what an attack must be over for.
const PAUSE: Duration = Duration::from_secs(1);
/// What the daemon's memory may grow by.
const GROWTH_KIB: u64 = 16 * 1024;
/// The least of connections that are served.
const LEAST_SERVED: f64 = 0.999;
/// Who connects at the end: nobody else has its address, in whatever lab beside this one.
const LAST_CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 201, 1);
/// When the last cookie is good for nothing, and the settings are back.
const COOKIES_EXPIRE: Duration = Duration::from_secs(130);

/// Runs `rounds` rounds of phases of this length, and waits until everything is as it was.
///
/// # Errors
/// Returns an error if something is not as it should be.
pub fn run(phase: Duration, rounds: u32) -> Result<()> {
    let mut scene = run_phases(phase, rounds)?;
    settings_come_back(&mut scene)
}

/// Runs `rounds` rounds of phases of this length.
///
/// # Errors
/// Returns an error if something is not as it should be.
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
    ensure!(share >= LEAST_SERVED, "{share:.4} of {} were served", attack.client.tried);
    ensure!(scene.blocked()?.contains("198.18.1.1"), "{:?}", scene.blocked()?);
    adds_up(&scene, attack.sent)?;
    scene.back_to_calm(attack.ended)?;
    let memory = scene.daemon.resident_kib()?;
    ensure!(memory < memory_before + GROWTH_KIB, "{memory_before} KiB became {memory}");
    scene.ssh_session_lives()?;
    Ok(scene)
}

/// Waits until the last cookie is good for nothing, and the kernel's settings are back by themselves.
///
/// # Errors
/// Returns an error if they are not in time.
pub fn settings_come_back(scene: &mut Scene) -> Result<()> {
    let deadline = Instant::now() + COOKIES_EXPIRE;
    while !scene.has_cookie_settings_back()? {
        ensure!(Instant::now() < deadline, "the settings for cookies did not come back");
        sleep(Duration::from_millis(500));
    }
    let is_undone = |stats: &Value| stats["measures"]["kernel_settings"].as_array().is_some_and(Vec::is_empty);
    scene.daemon.stats_when("nothing is changed any more", is_undone)?;
    scene.ssh_session_lives()?;
    scene.lab.add_client_address(LAST_CLIENT.into())?;
    Client::new(&scene.lab).from(LAST_CLIENT.into()).fetch(WEB).map(drop)
}

/// Every SYN is accounted for: passed, dropped or challenged, to the packet.
///
/// # Errors
/// Returns an error if it is not.
pub fn adds_up(scene: &Scene, sent: u64) -> Result<()> {
    let from_client = scene.syns_of_clients()?;
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let is_settled = |stats: &Value| number(&stats["totals"]["syn"]) >= sent + from_client;
    let stats = scene.daemon.stats_when("all are counted", is_settled)?;
    let totals = &stats["totals"];
    ensure!(number(&totals["syn"]) == sent + from_client, "{sent} sent and {from_client} of the client: {totals}");
    let sum = number(&totals["passed"]) + number(&totals["dropped"]) + number(&totals["challenged"]);
    ensure!(sum == number(&totals["packets"]), "{totals}");
    Ok(())
}

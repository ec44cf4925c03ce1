//! Floods from forged sources are answered with cookies from XDP, while clients are served normally.

use std::{
    panic::resume_unwind,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use lab::{
    Client, Flood, FloodSpec, Lab, Scene, Setup, Sources,
    daemon::challenge_of,
    network::{SECOND_CLIENT_INTERFACE, SECOND_SERVER_INTERFACE, SERVER_INTERFACE, SERVER_IPV4, SERVER_IPV6},
    scene::{Attack, WEB},
    server::{self, Nginx},
    soak::adds_up,
};
use nix::sys::signal::Signal;

const FLOOD: Duration = Duration::from_secs(4);

fn random_ipv4() -> FloodSpec {
    FloodSpec::syn(Sources::RANDOM_IPV4, WEB.port())
}

fn check(scene: &mut Scene, attack: &Attack, least_served: f64) -> Result<()> {
    let challenge = &attack.seen.last()?.measures.challenge;
    ensure!(challenge.ports.first().is_some_and(|port| port.method == "cookie"), "{challenge:?}");
    ensure!(challenge.failed == 0, "{challenge:?}");
    let challenged = attack.seen.last()?.totals.challenged;
    ensure!(challenged > attack.sent * 8 / 10, "only {challenged} of {} SYNs were challenged", attack.sent);
    let share = attack.client.share();
    ensure!(share >= least_served, "{share:.4} of {} connections were served", attack.client.tried);
    scene.back_to_calm(attack.ended)?;
    scene.ssh_session_lives()
}

#[test]
fn a_client_does_not_notice_a_hundred_thousand_forged_syns_a_second() -> Result<()> {
    let mut scene = Scene::new("")?;
    let attack = scene.attack(&random_ipv4(), 100_000, FLOOD)?;
    check(&mut scene, &attack, 1.0)?;
    adds_up(&scene, attack.sent)
}

#[test]
fn nor_over_ipv6() -> Result<()> {
    let scene = Scene::new("")?;
    let spec = FloodSpec::syn(Sources::RANDOM_IPV6, WEB.port());
    let attack = scene.attack(&spec, 100_000, FLOOD)?;
    ensure!(attack.client.share() == 1.0, "the share of connections served is {:?}", attack.client.share());
    // All sources are in the same /64, which is blocked as a whole: unproven clients of other networks are let in.
    Client::new(&scene.lab).fetch((SERVER_IPV6, 80).into())?;
    scene.back_to_calm(attack.ended)
}

#[test]
fn four_hundred_thousand_a_second_lose_it_next_to_nothing() -> Result<()> {
    let mut scene = Scene::new("")?;
    let attack = scene.attack(&random_ipv4(), 400_000, FLOOD)?;
    check(&mut scene, &attack, 0.995)
}

#[test]
fn strangers_are_served_while_it_lasts() -> Result<()> {
    let scene = Scene::new("")?;
    let strangers: Vec<std::net::IpAddr> = (1..=200).map(|n| [198, 18, 210, n].into()).collect();
    for stranger in &strangers {
        scene.lab.add_client_address(*stranger)?;
    }
    let mut flood = scene.flood(&random_ipv4())?;
    let served = flood.during(100_000, || {
        scene.daemon.stats_when("the port is challenged", |stats| challenge_of(stats, 80) == Some("cookie"))?;
        Client::new(&scene.lab).run_from(&strangers, WEB, 100, Duration::from_secs(2), || true)
    })?;
    ensure!(
        served.share() == 1.0 && served.tried >= 190,
        "{} of {} connections were served",
        served.served(),
        served.tried
    );
    let returned = scene.daemon.stats()?.measures.challenge.cookies_returned;
    ensure!(returned >= 150, "only {returned} cookies were returned");
    Ok(())
}

/// Checks that a client is served within two seconds.
fn serves(lab: &Lab, server: std::net::SocketAddr) -> Result<()> {
    let started = Instant::now();
    let client = Client::new(lab);
    while let Err(error) = client.fetch(server) {
        ensure!(started.elapsed() < Duration::from_secs(2), "{server} is not served: {error:#}");
    }
    Ok(())
}

#[test]
fn listeners_that_come_and_go_are_served() -> Result<()> {
    let mut scene = Scene::new("")?;
    let mut flood = scene.flood(&FloodSpec { destination_ports: (80, 4), ..random_ipv4() })?;
    let lab = scene.lab.clone();
    flood.during(100_000, || {
        scene.daemon.stats_when("the port is challenged", |stats| challenge_of(stats, 80) == Some("cookie"))?;
        // nginx is restarted.
        scene.nginx = None;
        scene.nginx = Some(Nginx::start(&lab, &[80])?);
        serves(&lab, WEB)?;
        // A port is opened that was closed.
        let _new = Nginx::start(&lab, &[81])?;
        serves(&lab, (SERVER_IPV4, 81).into())?;
        scene.daemon.stats_when("the new port is challenged", |stats| challenge_of(stats, 81) == Some("cookie"))?;
        serves(&lab, (SERVER_IPV4, 81).into())?;
        // Four workers share a port.
        let _workers = server::echo(&lab.server, "0.0.0.0:82", 4)?;
        serves(&lab, (SERVER_IPV4, 82).into())?;
        scene
            .daemon
            .stats_when("the workers' port is challenged", |stats| challenge_of(stats, 82) == Some("cookie"))?;
        for _ in 0..20 {
            serves(&lab, (SERVER_IPV4, 82).into())?;
        }
        // A listener for IPv6 only, on a port that is flooded over IPv4.
        let _ipv6 = server::echo(&lab.server, "[2001:db8::1]:83", 1)?;
        serves(&lab, (SERVER_IPV6, 83).into())
    })
}

#[test]
fn a_killed_daemon_takes_up_where_it_was() -> Result<()> {
    let lab = Lab::new()?;
    lab.lay_second_cable()?;
    let _nginx = Nginx::start(&lab, &[80])?;
    let interfaces = format!("interfaces = [\"{SERVER_INTERFACE}\", \"{SECOND_SERVER_INTERFACE}\"]");
    let config = format!("{interfaces}\n[thresholds]\nhold = \"1s\"");
    let mut daemon = Setup::new(&lab)?.config(&config).start()?;
    lab.receive_without_daemon()?;
    let mut flood = Flood::from_interface(&lab.client, SECOND_CLIENT_INTERFACE, &random_ipv4())?;
    flood.during(20_000, || {
        daemon.stats_when("the port is challenged", |stats| challenge_of(stats, 80) == Some("cookie"))?;
        Client::new(&lab).fetch(WEB)?;
        let is_over = AtomicBool::new(false);
        let client = thread::scope(|scope| {
            let client = scope
                .spawn(|| Client::new(&lab).run(WEB, 50, Duration::from_secs(30), || !is_over.load(Ordering::Relaxed)));
            let result = (|| {
                daemon.restart(Signal::SIGKILL)?;
                let log = daemon.log()?;
                ensure!(log.contains("tcp_synack_retries was put back"), "{log}");
                ensure!(
                    !log.contains("tcp_syncookies was put back"),
                    "the setting for cookies under way was not kept: {log}"
                );
                daemon.stats_when("the port is challenged again", |stats| challenge_of(stats, 80) == Some("cookie"))?;
                thread::sleep(Duration::from_millis(500));
                Ok(())
            })();
            is_over.store(true, Ordering::Relaxed);
            let client = client.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            result.map(|()| client)
        })?;
        ensure!(client.share() == 1.0, "{} of {}: {:?}", client.served(), client.tried, client.troubles);
        // The daemon leaves nothing behind when it ends.
        daemon.end(Signal::SIGTERM)?;
        for (name, usual) in [("tcp_syncookies", "1"), ("tcp_timestamps", "1"), ("tcp_synack_retries", "5")] {
            let value = lab.server.setting(&format!("net.ipv4.{name}"))?;
            ensure!(value == usual, "{name} is {value}");
        }
        Ok(())
    })
}

/// The short form of `cargo xtask soak`. Its last part takes two minutes and is tested in `patient.rs`.
#[test]
fn phase_after_phase() -> Result<()> {
    lab::soak::run_phases(Duration::from_secs(3), 1).map(drop)
}

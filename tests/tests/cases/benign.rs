//! The judgement table, benign rows: whatever legitimate clients do, the state stays calm, no source is blocked,
//! nothing is dropped, and the clients are served.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    panic::resume_unwind,
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use lab::{
    Client, Flood, FloodSpec, Scene, Sources, eventually, frame,
    network::{SERVER_IPV4, SERVER_IPV6},
    scene::{Crowd, Seen, WEB},
    server::{self, Nginx},
};

const RUN: Duration = Duration::from_secs(5);

/// Checks what every row must show.
fn check(scene: &mut Scene, seen: &Seen) -> Result<()> {
    ensure!(seen.states == ["calm"], "{:?}: {:?}", seen.states, seen.last()?.attack);
    let stats = scene.daemon.stats()?;
    ensure!(stats.totals.dropped == 0, "{:?}", stats.drops);
    ensure!(scene.blocked()?.is_empty(), "{:?}", scene.blocked()?);
    for kind in ["attack_started", "source_blocked", "prefix_blocked", "kernel_setting_changed", "first_drop"] {
        let events = scene.events(kind)?;
        ensure!(events.is_empty(), "{events:?}");
    }
    scene.ssh_session_lives()
}

fn addresses(scene: &Scene, first: Ipv4Addr, count: u32) -> Result<Vec<IpAddr>> {
    let all: Vec<IpAddr> = (0..count).map(|n| Ipv4Addr::from(u32::from(first) + n).into()).collect();
    all.iter().try_for_each(|address| scene.lab.add_client_address(*address))?;
    Ok(all)
}

fn crowd_is_served(
    scene: &mut Scene,
    addresses: Vec<IpAddr>,
    server: SocketAddr,
    rate: u32,
    threads: u32,
) -> Result<()> {
    let crowd = Crowd { lab: &scene.lab, addresses, rate, threads };
    let (clients, seen) = scene.observe(|| crowd.run(server, RUN))?;
    ensure!(clients.share() == 1.0, "{} of {} connections were served", clients.served(), clients.tried);
    let least = f64::from(rate) * RUN.as_secs_f64() * 0.8;
    ensure!(f64::from(clients.served()) > least, "only {} connections were made", clients.served());
    check(scene, &seen)
}

#[test]
fn two_thousand_connections_a_second_from_200_addresses() -> Result<()> {
    let mut scene = Scene::new("")?;
    let addresses = addresses(&scene, Ipv4Addr::new(198, 18, 2, 1), 200)?;
    crowd_is_served(&mut scene, addresses, WEB, 2000, 4)
}

#[test]
fn one_address_with_500_connections_a_second() -> Result<()> {
    let mut scene = Scene::new("")?;
    let addresses = addresses(&scene, Ipv4Addr::new(198, 18, 2, 1), 1)?;
    crowd_is_served(&mut scene, addresses, WEB, 500, 2)
}

#[test]
fn more_connections_than_the_ceiling_of_syns() -> Result<()> {
    // A completed handshake gives the source back what its SYN cost.
    let mut scene = Scene::new("[source]\nsyn_per_second = 100")?;
    let addresses = addresses(&scene, Ipv4Addr::new(198, 18, 2, 1), 1)?;
    crowd_is_served(&mut scene, addresses, WEB, 600, 2)
}

#[test]
fn ipv6_clients_across_one_network() -> Result<()> {
    let mut scene = Scene::new("")?;
    let addresses: Vec<IpAddr> = (1..=200).map(|n| Ipv6Addr::new(0x2001, 0xdb8, 5, 5, n, n, 0, 1).into()).collect();
    addresses.iter().try_for_each(|address| scene.lab.add_client_address(*address))?;
    crowd_is_served(&mut scene, addresses, (SERVER_IPV6, 80).into(), 1000, 4)
}

#[test]
fn bursts_as_of_a_recursive_fetch() -> Result<()> {
    let mut scene = Scene::new("")?;
    let lab = scene.lab.clone();
    let (served, seen) = scene.observe(|| {
        let mut served = 0;
        for _ in 0..10 {
            // Forty simultaneous connections, then a pause.
            served += thread::scope(|scope| {
                let fetches: Vec<_> = (0..40).map(|_| scope.spawn(|| Client::new(&lab).fetch(WEB))).collect();
                let results =
                    fetches.into_iter().map(|fetch| fetch.join().unwrap_or_else(|panic| resume_unwind(panic)));
                results.filter(Result::is_ok).count()
            });
            thread::sleep(Duration::from_millis(300));
        }
        Ok(served)
    })?;
    ensure!(served == 400, "{served} of 400 connections were served");
    check(&mut scene, &seen)
}

#[test]
fn a_client_on_a_lossy_path() -> Result<()> {
    // SYNs arrive, but the replies are lost, so the client sends the SYNs of 60 connections ten times.
    let mut scene = Scene::new("")?;
    let spec = FloodSpec {
        source_ports: (30_000, 60),
        ..FloodSpec::syn(Sources::InTurn(Ipv4Addr::new(198, 18, 2, 1).into(), 1), 80)
    };
    let mut syns = scene.flood(&spec)?;
    let (_, seen) = scene.observe(|| {
        for _ in 0..10 {
            syns.send(60)?;
            thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    })?;
    let stats = scene.daemon.stats()?;
    ensure!(stats.half_open.datapath == 60, "{:?}", stats.half_open);
    ensure!(stats.totals.syn_repeated == 540, "{:?}", stats.totals);
    check(&mut scene, &seen)
}

#[test]
fn a_slow_application_is_told_of_and_is_no_attack() -> Result<()> {
    let mut scene = Scene::new("")?;
    // The kernel completes handshakes, but the application accepts none: the accept queue holds 128 plus one.
    let _slow = server::listen(&scene.lab.server, SERVER_IPV4.into(), 8080)?;
    let addresses = addresses(&scene, Ipv4Addr::new(198, 18, 2, 1), 50)?;
    let lab = scene.lab.clone();
    let (_, seen) = scene.observe(|| {
        let connect = |n: usize| {
            let source = addresses[n % addresses.len()];
            // Some fail once the accept queue is full, as intended.
            Client::new(&lab).from(source).connect((SERVER_IPV4, 8080).into()).ok()
        };
        thread::scope(|scope| {
            let clients: Vec<_> = (0..600).map(|n| scope.spawn(move || connect(n))).collect();
            let kept: Vec<_> = clients
                .into_iter()
                .filter_map(|client| client.join().unwrap_or_else(|panic| resume_unwind(panic)))
                .collect();
            thread::sleep(Duration::from_secs(1));
            drop(kept);
        });
        Ok(())
    })?;
    ensure!(seen.slow.contains(&8080), "port 8080 was not reported as slow: {:?}", seen.last()?.ports);
    ensure!(seen.last()?.refused > 5, "nothing was refused: {:?}", seen.last()?.tcp_ext);
    let told = scene.events("slow_application")?;
    ensure!(told.iter().any(|event| event["subject"] == "8080"), "{told:?}");
    check(&mut scene, &seen)
}

#[test]
fn a_restart_of_nginx_under_load() -> Result<()> {
    let mut scene = Scene::new("")?;
    let addresses = addresses(&scene, Ipv4Addr::new(198, 18, 2, 1), 200)?;
    let nginx = scene.nginx.take();
    let lab = scene.lab.clone();
    let crowd = Crowd { lab: &lab, addresses, rate: 1500, threads: 3 };
    let ((clients, _nginx), seen) = scene.observe(|| {
        thread::scope(|scope| {
            let clients = scope.spawn(|| crowd.run(WEB, RUN));
            thread::sleep(Duration::from_secs(2));
            drop(nginx);
            thread::sleep(Duration::from_secs(1));
            let nginx = Nginx::start(&lab, &[80])?;
            Ok((clients.join().unwrap_or_else(|panic| resume_unwind(panic))?, nginx))
        })
    })?;
    ensure!(clients.share() < 1.0, "all connections were served although nginx was stopped");
    ensure!(seen.last()?.totals.syn_closed > 500, "{:?}", seen.last()?.totals);
    check(&mut scene, &seen)
}

#[test]
fn idle_half_open_handshakes_within_the_thresholds() -> Result<()> {
    let mut scene = Scene::new("")?;
    let spec = FloodSpec::syn(Sources::InTurn(Ipv4Addr::new(198, 18, 2, 1).into(), 3), 80);
    let mut syns = scene.flood(&spec)?;
    let (_, seen) = scene.observe(|| {
        // No more at a time than the veth queue holds.
        for _ in 0..6 {
            syns.send(50)?;
        }
        // Meanwhile the SYN-ACKs are retransmitted.
        thread::sleep(Duration::from_secs(4));
        Ok(())
    })?;
    ensure!(seen.last()?.half_open.kernel_retried == 300, "{:?}", seen.last()?.half_open);
    check(&mut scene, &seen)
}

#[test]
fn health_checks_that_reset_after_the_syn_ack() -> Result<()> {
    let mut scene = Scene::new("")?;
    let source: IpAddr = Ipv4Addr::new(198, 18, 2, 1).into();
    let plain = FloodSpec { source_ports: (20_000, 2000), ..FloodSpec::syn(Sources::InTurn(source, 1), 80) };
    let reset = FloodSpec { flags: frame::RST, sequence: plain.sequence + 1, ..plain.clone() };
    let (mut syns, mut resets): (Flood, Flood) = (scene.flood(&plain)?, scene.flood(&reset)?);
    let (_, seen) = scene.observe(|| {
        for _ in 0..40 {
            syns.send(25)?;
            resets.send(25)?;
        }
        Ok(())
    })?;
    eventually(
        "every handshake was reset",
        || scene.daemon.stats(),
        |stats| stats.totals.handshakes_reset == 1000 && stats.half_open.datapath == 0,
    )?;
    check(&mut scene, &seen)
}

#[test]
fn a_probe_of_a_closed_port() -> Result<()> {
    // A monitoring host that probes a port without a listener a few times per second.
    let mut scene = Scene::new("")?;
    let client = Client::new(&scene.lab);
    let (_, seen) = scene.observe(|| {
        for _ in 0..10 {
            ensure!(client.connect((SERVER_IPV4, 7).into()).is_err(), "the connection to a closed port succeeded");
            thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    })?;
    let address: IpAddr = "198.18.0.2".parse().expect("an address");
    ensure!(!scene.blocked()?.contains(&address.to_string()), "the monitoring host is blocked");
    check(&mut scene, &seen)
}

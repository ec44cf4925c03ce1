//! The judgement table, hostile rows: each attack is classified and stopped, its measures end afterwards, and a client
//! with a hundred connections per second is not affected.

#![expect(clippy::expect_used, reason = "constants of the test, which always parse")]

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    thread::sleep,
    time::Duration,
};

use anyhow::{Result, ensure};
use lab::{
    FloodSpec, Scene, Sources, eventually, frame,
    network::SERVER_IPV4,
    scene::{Attack, SSH_PEER},
};

const FLOOD: Duration = Duration::from_secs(3);

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Checks what every row must show: the attack was classified as `kind`, clients were served and not blocked, and every
/// measure has ended.
fn check(scene: &mut Scene, attack: &Attack, kind: &str, least_served: f64) -> Result<()> {
    let seen = &attack.seen;
    ensure!(seen.states.contains(&"attack".to_owned()), "no attack: {:?}, {:?}", seen.states, seen.kinds);
    ensure!(
        seen.kinds.last().map(String::as_str) == Some(kind),
        "the kind should be {kind}, but the kinds were {:?}",
        seen.kinds
    );
    let share = attack.client.share();
    ensure!(share >= least_served, "{share:.4} of {}: {:?}", attack.client.tried, attack.client.troubles);
    let blocked = scene.blocked()?;
    for innocent in ["198.18.0.2".to_owned(), SSH_PEER.to_string()] {
        ensure!(!blocked.contains(&innocent), "{innocent} is blocked: {blocked:?}");
    }
    scene.back_to_calm(attack.ended)?;
    let (started, ended) = (scene.events("attack_started")?, scene.events("attack_ended")?);
    ensure!((started.len(), ended.len()) == (1, 1), "{started:?}, {ended:?}");
    let evidence = started[0]["evidence"].as_array().map_or(0, Vec::len);
    ensure!(evidence >= 1, "the event has no evidence: {started:?}");
    scene.ssh_session_lives()
}

#[test]
fn one_source() -> Result<()> {
    let mut scene = Scene::new("")?;
    let spec = FloodSpec::syn(Sources::InTurn(address("198.18.1.1"), 1), 80);
    let attack = scene.attack(&spec, 400_000, FLOOD)?;
    ensure!(scene.blocked()?.contains("198.18.1.1"), "{:?}", scene.blocked()?);
    check(&mut scene, &attack, "concentrated", 1.0)?;
    let drops = &scene.daemon.stats()?.drops;
    let dropped = drops["blocked"] + drops["rate_limit"];
    let passed = attack.sent - dropped;
    // What a source may send in a second, plus some SYNs until it is blocked.
    ensure!(passed < 2000 + 1000, "{passed} of {} SYNs passed: {drops:?}", attack.sent);
    Ok(())
}

#[test]
fn ten_sources() -> Result<()> {
    let mut scene = Scene::new("")?;
    let spec = FloodSpec::syn(Sources::InTurn(address("198.18.1.1"), 10), 80);
    let attack = scene.attack(&spec, 200_000, FLOOD)?;
    let blocked = scene.blocked()?;
    for n in 1..=10 {
        ensure!(blocked.contains(&format!("198.18.1.{n}")), "{blocked:?}");
    }
    check(&mut scene, &attack, "concentrated", 1.0)
}

#[test]
fn a_network_with_every_address() -> Result<()> {
    let mut scene = Scene::new("")?;
    let spec = FloodSpec::syn(Sources::InTurn(address("198.18.77.0"), 256), 80);
    let attack = scene.attack(&spec, 100_000, FLOOD)?;
    ensure!(scene.blocked()?.contains("198.18.77.0/24"), "{:?}", scene.blocked()?);
    ensure!(attack.seen.dropped("blocked_prefix") > attack.sent / 2, "{:?}", attack.seen.last()?.drops);
    check(&mut scene, &attack, "prefix", 1.0)
}

#[test]
fn an_ipv6_network_at_random() -> Result<()> {
    let mut scene = Scene::new("")?;
    let attack = scene.attack(&FloodSpec::syn(Sources::RANDOM_IPV6, 80), 100_000, FLOOD)?;
    ensure!(scene.blocked()?.contains("2001:db8:9:9::/64"), "{:?}", scene.blocked()?);
    ensure!(attack.seen.dropped("blocked_prefix") > attack.sent / 2, "{:?}", attack.seen.last()?.drops);
    check(&mut scene, &attack, "prefix", 1.0)
}

#[test]
fn random_sources() -> Result<()> {
    let mut scene = Scene::new("")?;
    let attack = scene.attack(&FloodSpec::syn(Sources::RANDOM_IPV4, 80), 50_000, FLOOD)?;
    ensure!(attack.seen.settings.contains("net.ipv4.tcp_synack_retries=1"), "{:?}", attack.seen.settings);
    let blocked = scene.blocked()?;
    ensure!(blocked.is_empty(), "random sources were blocked: {blocked:?}");
    // The client is served by cookies.
    check(&mut scene, &attack, "spoofed", 0.95)
}

#[test]
fn low_and_slow() -> Result<()> {
    // Each source is far below the limit of SYNs per second, and completes no handshake. The limit for networks is
    // raised, so that each source has to be detected by itself.
    let mut scene = Scene::new("[source]\nprefix_max_half_open = 10000000")?;
    let first = Ipv4Addr::new(198, 18, 3, 1);
    let spec = FloodSpec::syn(Sources::InTurn(first.into(), 100), 80);
    let attack = scene.attack(&spec, 500, Duration::from_secs(20))?;
    let blocked = scene.blocked()?;
    for n in 1..=100 {
        ensure!(blocked.contains(&format!("198.18.3.{n}")), "198.18.3.{n} is not blocked: {blocked:?}");
    }
    check(&mut scene, &attack, "concentrated", 1.0)
}

#[test]
fn a_scan() -> Result<()> {
    let mut scene = Scene::new("")?;
    let scanner = Ipv4Addr::new(198, 18, 9, 9);
    scene.lab.add_client_address(scanner.into())?;
    let scan = |ports: &str| -> Result<String> {
        let interface = scene.lab.clients_interface();
        let scan = format!(
            "-sS -Pn -n -p {ports} --max-retries 1 --host-timeout 20s -S {scanner} -e {interface} {SERVER_IPV4}"
        );
        scene.lab.clients.nmap(&scan)
    };
    let attack = scene.attack_by(|| {
        // The first scan takes a tenth of a second and finds the open port.
        let first = scan("1-1000")?;
        ensure!(first.contains("80/tcp open"), "{first}");
        let told = eventually("the scan is reported", || scene.events("port_scan"), |events| !events.is_empty())?;
        ensure!(told[0]["subject"] == scanner.to_string(), "{told:?}");
        let second = scan("80")?;
        ensure!(second.contains("80/tcp open"), "{second}");
        Ok(1000)
    })?;
    // A scan is no attack, and blocks nobody.
    ensure!(attack.seen.states == ["calm"] && scene.blocked()?.is_empty(), "{:?}", attack.seen.states);
    ensure!(attack.client.share() == 1.0, "{:.4} of the connections were served", attack.client.share());
    scene.ssh_session_lives()
}

#[test]
fn syns_with_data() -> Result<()> {
    let mut scene = Scene::new("")?;
    let spec = FloodSpec { payload: 100, ..FloodSpec::syn(Sources::RANDOM_IPV4, 80) };
    let attack = scene.attack(&spec, 50_000, FLOOD)?;
    ensure!(attack.seen.dropped("syn_payload") > attack.sent / 2, "{:?}", attack.seen.last()?.drops);
    check(&mut scene, &attack, "spoofed", 1.0)
}

#[test]
fn syns_with_fin() -> Result<()> {
    let mut scene = Scene::new("")?;
    let spec =
        FloodSpec { flags: frame::SYN | frame::FIN, ..FloodSpec::syn(Sources::InTurn(address("198.18.1.1"), 1), 80) };
    let attack = scene.attack(&spec, 50_000, FLOOD)?;
    scene.daemon.stats_when("every frame is counted", |stats| stats.drops["bad_flags"] == attack.sent)?;
    check(&mut scene, &attack, "concentrated", 1.0)
}

#[test]
fn a_flood_of_a_port_without_a_listener() -> Result<()> {
    let mut scene = Scene::new("")?;
    // With random ports and sequence numbers: those that come in turn come again after 0.6 s, and are retransmits.
    let spec = FloodSpec::syn(Sources::Random(address("198.18.1.1"), 1), 7777);
    let attack = scene.attack(&spec, 100_000, FLOOD)?;
    let seen = attack.seen.last()?;
    ensure!(attack.seen.states == ["calm"], "{:?}", attack.seen.states);
    ensure!(scene.blocked()?.is_empty(), "{:?}", scene.blocked()?);
    ensure!(attack.seen.dropped("closed_port") > attack.sent * 3 / 4, "{:?} of {}", seen.drops, attack.sent);
    ensure!(attack.client.share() == 1.0, "{:.4} of the connections were served", attack.client.share());
    ensure!(scene.events("closed_ports_flooded")?.len() == 1, "{:?}", scene.events("closed_ports_flooded")?);
    scene.ssh_session_lives()
}

#[test]
fn a_pause_shorter_than_hold() -> Result<()> {
    let mut scene = Scene::new("")?;
    let mut flood = scene.flood(&FloodSpec::syn(Sources::InTurn(address("198.18.1.1"), 1), 80))?;
    let attack = scene.attack_by(|| {
        let mut sent = 0;
        for _ in 0..3 {
            sent += flood.send_at(50_000, Duration::from_secs(1))?;
            // A pause shorter than hold.
            sleep(Duration::from_millis(1200));
        }
        Ok(sent + flood.send_at(50_000, Duration::from_secs(1))?)
    })?;
    let last_calm = attack.seen.states.iter().rposition(|state| state == "calm");
    ensure!(last_calm.is_none_or(|place| place == 0), "the state was calm in between: {:?}", attack.seen.states);
    check(&mut scene, &attack, "concentrated", 1.0)
}

#[test]
fn a_mixture() -> Result<()> {
    let mut scene = Scene::new("")?;
    let mut random = scene.flood(&FloodSpec::syn(Sources::RANDOM_IPV4, 80))?;
    let mut one = scene.flood(&FloodSpec::syn(Sources::InTurn(address("198.18.1.1"), 1), 80))?;
    let attack = scene.attack_by(|| {
        let mut sent = 0;
        for _ in 0..15 {
            sent += random.send_at(1000, Duration::from_millis(200))?;
            sent += one.send_at(1000, Duration::from_millis(200))?;
        }
        Ok(sent)
    })?;
    ensure!(scene.blocked()?.contains("198.18.1.1"), "{:?}", scene.blocked()?);
    let kinds = &attack.seen.kinds;
    ensure!(kinds.contains(&"mixed".to_owned()) || kinds.contains(&"spoofed".to_owned()), "{kinds:?}");
    let last = kinds.last().cloned().unwrap_or_default();
    check(&mut scene, &attack, &last, 1.0)
}

#[test]
fn a_victim_s_forged_address_is_not_blocked_among_random_ones() -> Result<()> {
    // The client's address is among the forged ones.
    let mut scene = Scene::new("")?;
    let forged = Sources::Random(Ipv4Addr::new(198, 18, 0, 0).into(), 65_536);
    let attack = scene.attack(&FloodSpec::syn(forged, 80), 20_000, FLOOD)?;
    ensure!(scene.blocked()?.is_empty(), "{:?}", scene.blocked()?);
    check(&mut scene, &attack, "spoofed", 0.95)
}

#[test]
fn ipv6_sources_that_complete_are_let_in_from_a_blocked_network() -> Result<()> {
    let scene = Scene::new("")?;
    let neighbour = Ipv6Addr::new(0x2001, 0xdb8, 9, 9, 0, 0, 0, 0x77);
    scene.lab.add_client_address(neighbour.into())?;
    let client = lab::Client::new(&scene.lab).from(neighbour.into());
    let server = (lab::network::SERVER_IPV6, 80).into();
    client.fetch(server)?;
    let mut flood = scene.flood(&FloodSpec::syn(Sources::RANDOM_IPV6, 80))?;
    flood.send_at(50_000, Duration::from_secs(1))?;
    eventually("the network is blocked", || scene.blocked(), |blocked| blocked.contains("2001:db8:9:9::/64"))?;
    // The client is proven, since it completed a handshake before.
    client.fetch(server)?;
    let stranger = Ipv6Addr::new(0x2001, 0xdb8, 9, 9, 0, 0, 0, 0x78);
    scene.lab.add_client_address(stranger.into())?;
    // A client that is not proven has to retransmit.
    let took = lab::Client::new(&scene.lab).from(stranger.into()).fetch(server)?;
    ensure!(took > Duration::from_millis(900), "an unproven source of the blocked network was let in after {took:?}");
    Ok(())
}

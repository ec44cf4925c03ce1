//! A gateway: SYNs to networks behind this host are judged, and challenged by reset, by what passes through it.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use lab::{
    Client, Connections, FarClient, FloodSpec, Namespace, Path, Scene, Sources, Stats,
    frame::{ACK, Frame, RST, SYN},
    network::SECOND_CLIENT_INTERFACE,
    oracle,
    process::missed_runs,
    redirect::{BEHIND, BEHIND_IPV6, answer_past, host_behind},
    scene::WEB,
    server::{self, Echo},
    wait::beside,
    wire::{Wire, completion, linux_syn},
};
use nix::sys::signal::Signal;
use tcpguard::api::model::Protected;

const ROUND_TRIP: Duration = Duration::from_millis(80);
const SHOP: &str =
    "[[protect]]\nname = \"shop\"\nnetworks = [\"198.18.100.0/30\", \"2001:db8:64::/126\"]\nports = [80, 443]\n";
const SHOP_IPV4: SocketAddr = SocketAddr::new(IpAddr::V4(BEHIND), 80);
const SHOP_IPV6: SocketAddr = SocketAddr::new(IpAddr::V6(BEHIND_IPV6), 80);
const FIRST: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 61, 7));

/// A gateway with a server behind it.
struct Gateway {
    scene: Scene,
    behind: Namespace,
    _service: Echo,
}

impl Gateway {
    fn new(config: &str) -> Result<Self> {
        Self::protecting(&format!("{config}{SHOP}"))
    }

    fn protecting(config: &str) -> Result<Self> {
        let scene = Scene::new(config)?;
        let behind = host_behind(&scene.lab)?;
        let service = server::echo(&behind, "[::]:80", 2)?;
        Ok(Self { scene, behind, _service: service })
    }

    fn far_client(&self) -> Result<FarClient> {
        self.scene.lab.far_client(&[FIRST], Path::milliseconds(ROUND_TRIP.as_millis() as u64), true)
    }

    fn when(&self, what: &str, is_so: impl Fn(&Protected) -> bool) -> Result<Stats> {
        let daemon = &self.scene.daemon;
        // Once, a handshake was counted by neither of two tracing programs.
        let detail =
            || format!("missed runs: {:?}; the log:\n{}", missed_runs(daemon.id()), daemon.log().unwrap_or_default());
        daemon.stats_when(what, |stats| is_so(&stats.protected[0])).with_context(detail)
    }
}

fn all_served(connections: &Connections) -> Result<()> {
    ensure!(
        connections.share() == 1.0,
        "{} of {}: {:?}",
        connections.served(),
        connections.tried,
        connections.troubles
    );
    Ok(())
}

#[test]
fn handshakes_that_pass_are_counted_to_the_last() -> Result<()> {
    let gateway = Gateway::new("")?;
    let client = Client::new(&gateway.scene.lab);
    let syns = || oracle::syns_sent(&gateway.scene.lab.client);
    let before = syns()?;
    for _ in 0..50 {
        client.fetch(SHOP_IPV4)?;
        client.fetch(SHOP_IPV6)?;
    }
    let far = gateway.far_client()?;
    for _ in 0..10 {
        Client::in_namespace(&far.namespace).fetch(SHOP_IPV4)?;
    }
    let stats = gateway.when("all have completed", |shop| shop.ports[0].completed == 110)?;
    let shop = &stats.protected[0];
    // Some may have been sent again, until the neighbours were found.
    let sent = syns()? - before + oracle::syns_sent(&far.namespace)?;
    ensure!(shop.ports[0].syn == sent && sent < 115, "{shop:?}: {sent} were sent");
    ensure!(shop.half_open == 0 && shop.state == "calm", "{shop:?}");
    ensure!(shop.return_path == "here" && shop.ports[1].syn == 0, "{shop:?}");
    ensure!(stats.half_open.datapath == 0 && stats.totals.syn_forwarded == 0, "{:?}", stats.totals);
    let source = stats.sources.iter().find(|source| source.source == FIRST.to_string());
    let source = source.map(|source| (source.completed, source.half_open, source.proven));
    ensure!(source == Some((10, 0, true)), "{source:?}");
    Ok(())
}

#[test]
fn a_port_that_the_server_refuses_is_not_half_open() -> Result<()> {
    let gateway = Gateway::new("")?;
    let client = Client::new(&gateway.scene.lab);
    for _ in 0..20 {
        ensure!(client.fetch(SocketAddr::new(BEHIND.into(), 443)).is_err());
    }
    let stats = gateway.when("all were counted", |shop| shop.ports[1].syn == 20)?;
    ensure!(stats.protected[0].half_open == 0, "{:?}", stats.protected);
    Ok(())
}

#[test]
fn a_spoofed_flood_does_not_get_through_and_clients_do() -> Result<()> {
    let gateway = Gateway::new("")?;
    let far = gateway.far_client()?;
    let client = Client::in_namespace(&far.namespace);
    let mut flood = gateway.scene.flood(&FloodSpec::syn(Sources::RANDOM_IPV4, 80).to(BEHIND.into()))?;
    let client = flood.during(50_000, || {
        gateway.when("the port is challenged", |shop| shop.method.as_deref() == Some("reset"))?;
        client.run(SHOP_IPV4, 10, Duration::from_secs(4), || true)
    })?;
    all_served(&client)?;
    let stats = gateway.scene.daemon.stats()?;
    let state = &stats.protected[0];
    ensure!(state.state == "attack" && state.ports[0].challenged && !state.ports[1].challenged, "{state:?}");
    ensure!(gateway.scene.blocked()?.is_empty(), "{:?}", gateway.scene.blocked()?);
    // What arrived before the first challenge.
    let let_in = stats.totals.syn - stats.totals.challenged;
    ensure!(let_in < 30_000, "{let_in} SYNs were forwarded");
    ensure!(stats.measures.kernel_settings.is_empty(), "{:?}", stats.measures);
    println!("let in {let_in}; client {:?}", client.quantile(0.99));
    gateway.when("it is over", |shop| shop.state == "calm" && shop.method.is_none())?;
    Ok(())
}

#[test]
fn whoever_keeps_handshakes_open_is_blocked() -> Result<()> {
    let gateway = Gateway::new("")?;
    let attacker = Ipv4Addr::new(198, 18, 1, 1);
    let mut flood = gateway.scene.flood(&FloodSpec::one_source(80).to(BEHIND.into()))?;
    flood.during(2_000, || {
        gateway.scene.daemon.stats_when("the source is blocked", |stats| {
            stats.sources.iter().any(|source| source.source == attacker.to_string() && source.blocked_until.is_some())
        })
    })?;
    Ok(())
}

#[test]
#[ignore = "takes half a minute: `cargo xtask test` runs it in parallel with other tests"]
fn where_answers_take_another_way_nobody_is_blocked() -> Result<()> {
    let gateway = Gateway::new("")?;
    let (scene, behind, far) = (&gateway.scene, &gateway.behind, gateway.far_client()?);
    answer_past(behind, &far.namespace, &[&format!("{FIRST}/32"), "198.18.1.0/24"])?;
    let client = Client::in_namespace(&far.namespace).from(FIRST);
    let known = client.run(SHOP_IPV4, 20, Duration::from_secs(2), || true)?;
    all_served(&known)?;
    gateway.when("it is known", |shop| shop.return_path == "elsewhere")?;
    let more = client.run(SHOP_IPV4, 20, Duration::from_secs(30), || true)?;
    all_served(&more)?;
    let all = u64::from(known.tried + more.tried);
    let stats = gateway.when("all were counted", |shop| shop.ports[0].syn >= all)?;
    let shop = &stats.protected[0];
    ensure!(stats.state == "calm" && shop.half_open < 50 && shop.ports[0].completed == 0, "{shop:?}");
    let mut flood = scene.flood(&FloodSpec::one_source(80).to(BEHIND.into()))?;
    flood.during(2_000, || {
        gateway.when("the port is challenged", |shop| shop.method.is_some())?;
        all_served(&client.run(SHOP_IPV4, 5, Duration::from_secs(4), || true)?)?;
        ensure!(scene.blocked()?.is_empty(), "{:?}", scene.blocked()?);
        Ok(())
    })
}

#[test]
fn slow_sources_that_complete_nothing_are_kept_from_the_server() -> Result<()> {
    // Each is far below the limit of SYNs per second. The limit for networks is raised, so that each counts by itself.
    let gateway = Gateway::new("[source]\nprefix_max_half_open = 10000000\n")?;
    let first = Ipv4Addr::new(198, 18, 3, 1);
    let far = gateway.far_client()?;
    let client = Client::in_namespace(&far.namespace);
    let mut flood = gateway.scene.flood(&FloodSpec::syn(Sources::InTurn(first.into(), 100), 80).to(BEHIND.into()))?;
    let (sent, served) = beside(
        |goes_on| client.run(SHOP_IPV4, 10, Duration::from_secs(30), goes_on),
        || flood.send_at(500, Duration::from_secs(20)),
    )?;
    all_served(&served)?;
    let stats = gateway.scene.daemon.stats()?;
    let let_in = stats.totals.syn - stats.totals.challenged;
    println!("{let_in} of {sent} were let in; {:?} {:?}", stats.protected, gateway.scene.blocked()?);
    ensure!(stats.protected[0].state == "attack", "{:?}", stats.protected);
    // Those before the first challenge, and the client's.
    ensure!(let_in < 3_000, "{let_in} of {sent}: {:?}", stats.totals);
    ensure!(gateway.scene.blocked()?.is_empty(), "{:?}", gateway.scene.blocked()?);
    let events = gateway.scene.events("attack_started")?;
    ensure!(events.len() == 1, "{events:?}");
    Ok(())
}

#[test]
fn a_scan_of_a_protected_network_is_no_attack() -> Result<()> {
    let ports: Vec<u16> = (1..=500).collect();
    let gateway = Gateway::protecting(&format!(
        "[[protect]]\nname = \"shop\"\nnetworks = [\"198.18.100.0/28\"]\nports = {ports:?}\n"
    ))?;
    // Addresses without a server.
    gateway.scene.lab.server.ip("route add 198.18.100.8/29 dev to-behind")?;
    let far = gateway.far_client()?;
    let client = Client::in_namespace(&far.namespace);
    let (found, served) = beside(
        |goes_on| client.run(SHOP_IPV4, 20, Duration::from_secs(40), goes_on),
        || {
            let scan = format!(
                "-sS -Pn -n -p 1-500 --max-retries 1 --max-rate 400 --host-timeout 15s {BEHIND} 198.18.100.9 198.18.100.10"
            );
            gateway.scene.lab.clients.nmap(&scan)
        },
    )?;
    ensure!(found.contains("80/tcp"), "{found}");
    all_served(&served)?;
    let stats = gateway.scene.daemon.stats()?;
    let shop = &stats.protected[0];
    let scanned: u64 = shop.ports.iter().map(|port| port.syn).sum::<u64>() - u64::from(served.tried);
    println!("{scanned} SYNs of the scan, {} half open", shop.half_open);
    ensure!(scanned > 2 * u64::from(shop.max_half_open), "{scanned} SYNs of the scan");
    ensure!(stats.state == "calm" && shop.state == "calm", "{} {}", stats.state, shop.state);
    ensure!(stats.totals.dropped + stats.totals.challenged == 0, "{:?}", stats.totals);
    ensure!(gateway.scene.blocked()?.is_empty() && gateway.scene.events("attack_started")?.is_empty());
    Ok(())
}

#[test]
fn more_handshakes_under_way_than_the_threshold_are_no_attack_if_they_complete() -> Result<()> {
    let gateway = Gateway::protecting(
        "[[protect]]\nname = \"shop\"\nnetworks = [\"198.18.100.0/30\"]\nports = [80]\nmax_half_open = 20\n",
    )?;
    let addresses: Vec<IpAddr> = (1..=250).map(|n| Ipv4Addr::new(198, 18, 65, n).into()).collect();
    let far = gateway.scene.lab.far_client(&addresses, Path::milliseconds(150), true)?;
    // Each handshake is half open for 150 ms: at first all of those at a time, and then a third of them.
    let served = Client::in_namespace(&far.namespace).each_once(&addresses, SHOP_IPV4, 120)?;
    all_served(&served)?;
    let all = u64::from(served.tried);
    let stats = gateway.when("all have completed", |shop| shop.ports[0].completed == all)?;
    ensure!(stats.totals.dropped + stats.totals.challenged == 0, "{:?}", stats.totals);
    ensure!(gateway.scene.events("attack_started")?.is_empty() && gateway.scene.blocked()?.is_empty());
    Ok(())
}

#[test]
fn a_crowd_of_new_clients_is_no_attack() -> Result<()> {
    let gateway = Gateway::new("")?;
    let addresses: Vec<IpAddr> = (1..=200).map(|n| Ipv4Addr::new(198, 18, 62, n).into()).collect();
    let far = gateway.scene.lab.far_client(&addresses, Path::milliseconds(150), true)?;
    let served = connect_all(&far, &addresses)?;
    all_served(&served)?;
    ensure!(served.quantile(1.0) < Duration::from_millis(300), "{:?}", served.quantile(1.0));
    let stats = gateway.when("all have completed", |shop| shop.ports[0].completed == 200)?;
    ensure!(stats.state == "calm" && stats.totals.dropped + stats.totals.challenged == 0, "{:?}", stats.totals);
    ensure!(gateway.scene.events("attack_started")?.is_empty());
    Ok(())
}

#[test]
fn clients_whose_addresses_a_flood_forges_are_served() -> Result<()> {
    let gateway = Gateway::new("")?;
    let addresses: Vec<IpAddr> = (1..=40).map(|n| Ipv4Addr::new(198, 18, 63, n).into()).collect();
    let path = Path { loss_one_in: 50, ..Path::milliseconds(100) };
    let far = gateway.scene.lab.far_client(&addresses, path, true)?;
    let forged = Sources::InTurn(addresses[0], addresses.len() as u64);
    let mut flood = gateway.scene.flood(&FloodSpec::syn(forged, 80).to(BEHIND.into()))?;
    flood.during(20_000, || {
        gateway.when("it is noticed", |shop| shop.state == "attack")?;
        for _ in 0..3 {
            // Of 120 clients one or two lose a packet of two attempts.
            let client = Client::in_namespace(&far.namespace).patient(Duration::from_secs(16));
            all_served(&client.each_once(&addresses, SHOP_IPV4, 20)?)?;
        }
        Ok(())
    })
}

#[test]
fn an_attack_ends_although_new_clients_keep_coming() -> Result<()> {
    let gateway = Gateway::new("")?;
    let addresses: Vec<IpAddr> = (1..=250).map(|n| Ipv4Addr::new(198, 18, 64, n).into()).collect();
    let far = gateway.scene.lab.far_client(&addresses, Path::milliseconds(40), true)?;
    let mut flood = gateway.scene.flood(&FloodSpec::syn(Sources::RANDOM_IPV4, 80).to(BEHIND.into()))?;
    flood.send_at(30_000, Duration::from_secs(2))?;
    gateway.when("it is challenged", |shop| shop.method.is_some())?;
    // Twenty of them a second, each of which is asked for a reset.
    let client = Client::in_namespace(&far.namespace);
    let (_, served) = beside(
        |goes_on| client.run_from(&addresses, SHOP_IPV4, 20, Duration::from_secs(12), goes_on),
        || gateway.when("it is calm", |shop| shop.state == "calm"),
    )?;
    all_served(&served)?;
    let stats = gateway.scene.daemon.stats()?;
    ensure!(stats.drops["returned_reset"] >= 10, "{:?}", stats.drops);
    Ok(())
}

#[test]
fn whatever_happens_to_the_daemon_forwarding_goes_on() -> Result<()> {
    let mut gateway = Gateway::new("[limits]\nheartbeat_timeout = \"1s\"\n")?;
    let far = gateway.far_client()?;
    let client = Client::in_namespace(&far.namespace);
    let listener = server::listen(&gateway.behind, BEHIND.into(), 443)?;
    let mut held = client.connect((BEHIND, 443).into())?;
    let (mut served, _) = listener.accept()?;
    let mut flood = gateway.scene.flood(&FloodSpec::syn(Sources::RANDOM_IPV4, 80).to(BEHIND.into()))?;
    // So few that the server withstands them alone.
    flood.during(800, || {
        gateway.when("it is challenged", |shop| shop.method.is_some())?;
        let before = gateway.scene.daemon.stats()?.protected[0].ports[0].syn;
        gateway.scene.daemon.end(Signal::SIGKILL)?;
        thread::sleep(Duration::from_secs(2));
        all_served(&client.run(SHOP_IPV4, 5, Duration::from_secs(2), || true)?)?;
        gateway.scene.daemon.start_again()?;
        let stats = gateway.when("it is challenged again", |shop| shop.method.is_some())?;
        ensure!(stats.protected[0].ports[0].syn > before, "{:?}", stats.protected);
        all_served(&client.run(SHOP_IPV4, 5, Duration::from_secs(2), || true)?)?;
        ensure!(gateway.scene.daemon.tcpguard(&["reload"])?.status.success());
        all_served(&client.run(SHOP_IPV4, 5, Duration::from_secs(2), || true)?)
    })?;
    held.write_all(b"alive")?;
    served.set_read_timeout(Some(Duration::from_secs(3)))?;
    served.read_exact(&mut [0; 5])?;
    gateway.scene.daemon.end(Signal::SIGTERM)?;
    ensure!(client.fetch(SHOP_IPV4).is_ok(), "without a daemon");
    Ok(())
}

/// Connects once from each address, several at a time.
fn connect_all(far: &FarClient, addresses: &[IpAddr]) -> Result<Connections> {
    let client = Client::in_namespace(&far.namespace);
    client.each_once(addresses, SHOP_IPV4, 20)
}

/// An address that nobody has: what is sent to it reaches the wire and is not answered.
const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 77, 7));

#[test]
fn an_acknowledgement_completes_one_handshake_with_its_own_server() -> Result<()> {
    let gateway = Gateway::new("")?;
    let wire = Wire::open_on(&gateway.scene.lab.client, SECOND_CLIENT_INTERFACE)?;
    let completed = || anyhow::Ok(gateway.scene.daemon.stats()?.totals.completed);
    let syn = linux_syn(NOBODY, BEHIND.into(), 80);
    let answer = wire.ask(&syn)?;
    let right = completion(&syn, &answer);
    wire.send(&Frame { destination_port: 443, ..right.clone() })?;
    wire.send(&Frame { acknowledgement: right.acknowledgement + 1, ..right.clone() })?;
    wire.send(&Frame { sequence: syn.sequence + 1, ..syn.clone() }.flags(RST))?;
    wire.send(&right)?;
    let stats = gateway.when("the reset ended it", |shop| shop.half_open == 0 && shop.ports[0].syn == 1)?;
    ensure!(stats.totals.completed == 0 && stats.totals.handshakes_reset == 1, "{:?}", stats.totals);
    let another = Frame { source_port: syn.source_port + 1, ..syn };
    let answer = wire.ask(&another)?;
    for _ in 0..3 {
        wire.send(&completion(&another, &answer))?;
    }
    gateway.when("the right one completes it", |shop| shop.ports[0].completed == 1)?;
    thread::sleep(Duration::from_millis(300));
    ensure!(completed()? == 1, "once");
    Ok(())
}

#[test]
fn a_syn_ack_from_the_clients_side_that_is_routed_back_proves_nobody() -> Result<()> {
    let gateway = Gateway::new("")?;
    let wire = Wire::open_on(&gateway.scene.lab.client, SECOND_CLIENT_INTERFACE)?;
    let syn = linux_syn(NOBODY, BEHIND.into(), 80);
    let forged = Frame {
        source: BEHIND.into(),
        destination: NOBODY,
        source_port: 80,
        destination_port: syn.source_port,
        sequence: 77,
        acknowledgement: syn.sequence + 1,
        ..syn.clone()
    };
    wire.send(&forged.flags(SYN | ACK))?;
    wire.send(&Frame { sequence: syn.sequence + 1, acknowledgement: 78, ..syn }.flags(ACK))?;
    let stats = gateway.scene.daemon.stats_when("both have arrived", |stats| stats.totals.ack >= 1)?;
    ensure!(stats.totals.syn_ack == 1 && stats.totals.completed == 0, "{:?}", stats.totals);
    ensure!(stats.sources.iter().all(|source| !source.proven), "{:?}", stats.sources);
    Ok(())
}

#[test]
fn a_listener_of_the_gateway_within_a_protected_network_is_its_own() -> Result<()> {
    let scene = Scene::new("[[protect]]\nname = \"all\"\nnetworks = [\"198.18.0.0/24\"]\nports = [80]\n")?;
    let client = Client::new(&scene.lab).run(WEB, 200, Duration::from_secs(4), || true)?;
    all_served(&client)?;
    let all = u64::from(client.tried);
    let stats = scene.daemon.stats_when("all have completed", |stats| stats.totals.completed >= all)?;
    ensure!(stats.totals.completed == all && stats.half_open.datapath == 0, "{:?}", stats.totals);
    ensure!(stats.protected[0].ports[0].syn == 0 && stats.state == "calm", "{:?}", stats.protected);
    Ok(())
}

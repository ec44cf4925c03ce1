//! Clients at a distance: their round trips are no attack, and floods that use their addresses do not shut them out.

use std::{
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use lab::{
    Client, Connections, DistantClients, FarClient, Flood, FloodSpec, Lab, Path, Scene, Setup, Sources, Stats,
    network::{SECOND_CLIENT_INTERFACE, SECOND_SERVER_INTERFACE, SERVER_INTERFACE},
    scene::WEB,
    server::Aborting,
    share_machine,
};

/// The client whose address is forged.
const VICTIM: Ipv4Addr = Ipv4Addr::new(198, 18, 60, 7);
/// The TTL with which its packets arrive: Linux' 64, less the hops of the path.
const VICTIMS_TIME_TO_LIVE: u8 = 53;
const ROUND_TRIP: Duration = Duration::from_millis(80);
/// How long a client that has to retransmit twice may take.
const TWO_RETRANSMITS: Duration = Duration::from_millis(3500);

/// Whether the client has completed a handshake before the flood.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Acquaintance {
    Proven,
    New,
}

/// Opens ten connections a second from the victim's address while `sources` are flooded, and returns them with their
/// connect times before the flood.
fn during_flood(
    sources: Sources,
    time_to_live: u8,
    port: u16,
    rate: u32,
    kind: Acquaintance,
) -> Result<(Connections, Duration)> {
    let scene = Scene::new("")?;
    let far = FarClient::new(&scene.lab, &[VICTIM], Path::milliseconds(ROUND_TRIP.as_millis() as u64))?;
    let client = Client::in_namespace(&far.namespace);
    let calm = match kind {
        Acquaintance::Proven => client.run(WEB, 10, Duration::from_secs(2), || true)?,
        Acquaintance::New => Connections::default(),
    };
    ensure!(calm.served() == calm.tried, "{} of {} were served before the flood", calm.served(), calm.tried);
    let mut flood = scene.flood(&FloodSpec { time_to_live, ..FloodSpec::syn(sources, port) })?;
    let connections = flood.during(rate, || {
        // The client comes when the flood has been recognised.
        thread::sleep(Duration::from_secs(1));
        client.run(WEB, 10, Duration::from_secs(6), || true)
    })?;
    let stats = scene.daemon.stats()?;
    println!(
        "{} of {} served, median {:?} (calm {:?}), at most {:?}; {} resets of its host; drops {:?}",
        connections.served(),
        connections.tried,
        connections.quantile(0.5),
        calm.quantile(0.5),
        connections.quantile(1.0),
        far.resets(),
        stats.drops
    );
    Ok((connections, calm.quantile(0.5)))
}

fn one() -> Sources {
    Sources::Random(VICTIM.into(), 1)
}

fn network() -> Sources {
    Sources::Random(Ipv4Addr::new(198, 18, 60, 0).into(), 256)
}

/// Checks that a proven client does not notice the flood.
fn is_unnoticed((connections, calm): (Connections, Duration)) -> Result<()> {
    ensure!(connections.share() == 1.0, "{} of {} were served", connections.served(), connections.tried);
    let median = connections.quantile(0.5);
    ensure!(median < calm + ROUND_TRIP, "the median is {median:?}, and {calm:?} without a flood");
    Ok(())
}

/// Checks that the client is served, if with delay.
fn is_served((connections, _): (Connections, Duration)) -> Result<()> {
    ensure!(connections.share() >= 0.99, "{} of {} were served", connections.served(), connections.tried);
    ensure!(connections.quantile(1.0) < TWO_RETRANSMITS, "one took {:?}", connections.quantile(1.0));
    Ok(())
}

#[test]
fn a_flood_with_a_clients_address_over_another_path_is_not_noticed() -> Result<()> {
    is_unnoticed(during_flood(one(), 244, WEB.port(), 100_000, Acquaintance::Proven)?)
}

#[test]
fn nor_is_one_of_a_closed_port() -> Result<()> {
    is_unnoticed(during_flood(one(), 244, 7777, 100_000, Acquaintance::Proven)?)
}

#[test]
fn a_flood_with_a_clients_address_and_path_does_not_shut_it_out() -> Result<()> {
    is_served(during_flood(one(), VICTIMS_TIME_TO_LIVE, WEB.port(), 100_000, Acquaintance::Proven)?)
}

#[test]
fn a_client_is_let_in_that_comes_for_the_first_time_during_a_flood_with_its_address() -> Result<()> {
    is_served(during_flood(one(), VICTIMS_TIME_TO_LIVE, WEB.port(), 100_000, Acquaintance::New)?)
}

#[test]
fn a_flood_with_the_addresses_of_its_network_does_not_shut_a_proven_client_out() -> Result<()> {
    is_served(during_flood(network(), VICTIMS_TIME_TO_LIVE, WEB.port(), 100_000, Acquaintance::Proven)?)
}

#[test]
fn nor_a_new_one() -> Result<()> {
    is_served(during_flood(network(), VICTIMS_TIME_TO_LIVE, WEB.port(), 100_000, Acquaintance::New)?)
}

#[test]
fn five_hundred_forged_syns_shut_nobody_out() -> Result<()> {
    let scene = Scene::new("")?;
    let far = FarClient::new(&scene.lab, &[VICTIM], Path::milliseconds(80))?;
    scene.flood(&FloodSpec::syn(Sources::InTurn("198.18.70.1".parse()?, 8), WEB.port()))?.send(450)?;
    scene.flood(&FloodSpec::syn(one(), 7777))?.send(70)?;
    let connections = Client::in_namespace(&far.namespace).run(WEB, 5, Duration::from_secs(6), || true)?;
    ensure!(connections.share() == 1.0, "{} of {} were served", connections.served(), connections.tried);
    ensure!(scene.blocked()?.is_empty(), "{:?}", scene.blocked()?);
    Ok(())
}

#[test]
fn more_syns_than_its_rate_with_a_clients_address_do_not_shut_it_out() -> Result<()> {
    is_served(during_flood(one(), 244, WEB.port(), 2500, Acquaintance::New)?)
}

/// Runs clients at a distance against a guarded server, and checks that they are served, the host stays calm and no
/// setting is changed.
fn stays_calm(clients: DistantClients, rate: u32, duration: Duration) -> Result<()> {
    let lab = Lab::new()?;
    let _server = Aborting::start(&lab, clients.port, 32_768)?;
    let daemon = Setup::new(&lab)?.start()?;
    let settings = ["net.ipv4.tcp_syncookies", "net.ipv4.tcp_synack_retries", "net.ipv4.tcp_timestamps"];
    let read = || settings.iter().map(|name| lab.server.setting(name)).collect::<Result<Vec<_>>>();
    let before = read()?;
    let start = Instant::now();
    let served = thread::scope(|scope| -> Result<_> {
        let run = scope.spawn(|| clients.run(&lab, rate, duration));
        while !run.is_finished() {
            let stats: Stats = daemon.stats()?;
            ensure!(stats.state == "calm", "after {:?}: {:?}", start.elapsed(), stats.attack);
            ensure!(read()? == before, "{:?} instead of {before:?}", read()?);
            thread::sleep(Duration::from_millis(50));
        }
        run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    let stats = daemon.stats()?;
    println!(
        "{:.4} of {} served, p99 {:?}; half open {:?}, drops {:?}",
        served.share(),
        served.tried,
        served.quantile(0.99),
        stats.half_open,
        stats.drops
    );
    ensure!(stats.totals.dropped == 0 && stats.totals.challenged == 0, "{:?}", stats.totals);
    // Where packets are lost, three SYNs in a row may be.
    let least = if clients.path.loss_one_in == 0 { 1.0 } else { 0.999 };
    ensure!(served.share() >= least, "{:.5} of {} were served", served.share(), served.tried);
    Ok(())
}

fn clients(first: [u8; 4], count: u32, round_trip: u64, port: u16) -> DistantClients {
    DistantClients { first: first.into(), count, path: Path::milliseconds(round_trip), abandoned_one_in: 0, port }
}

#[test]
fn five_thousand_connections_a_second_at_150_ms_are_no_attack() -> Result<()> {
    stays_calm(clients([198, 18, 128, 1], 3000, 150, 80), 5000, Duration::from_secs(6))
}

#[test]
fn two_thousand_connections_a_second_at_300_ms_are_no_attack() -> Result<()> {
    stays_calm(clients([198, 18, 128, 1], 3000, 300, 80), 2000, Duration::from_secs(5))
}

#[test]
fn one_address_with_a_thousand_connections_a_second_at_300_ms_is_no_attack() -> Result<()> {
    stays_calm(clients([198, 18, 128, 1], 1, 300, 80), 1000, Duration::from_secs(5))
}

#[test]
fn sixteen_addresses_of_one_network_are_no_attack() -> Result<()> {
    stays_calm(clients([198, 18, 128, 16], 16, 80, 80), 5000, Duration::from_secs(5))
}

#[test]
fn nor_with_lost_packets() -> Result<()> {
    let clients = clients([198, 18, 128, 1], 3000, 150, 80);
    let path = Path { loss_one_in: 33, ..clients.path };
    stays_calm(DistantClients { path, ..clients }, 5000, Duration::from_secs(6))
}

#[test]
#[ignore = "takes a minute and a half: `cargo xtask test` runs it in parallel with other tests"]
fn a_trickle_of_forged_syns_beside_clients_changes_nothing() -> Result<()> {
    share_machine();
    let lab = Lab::new()?;
    lab.lay_second_cable()?;
    let _server = Aborting::start(&lab, 80, 4096)?;
    let interfaces = format!("interfaces = [\"{SERVER_INTERFACE}\", \"{SECOND_SERVER_INTERFACE}\"]");
    let daemon = Setup::new(&lab)?.config(&interfaces).start()?;
    let clients = clients([198, 18, 128, 1], 100, 50, 80);
    let served = thread::scope(|scope| -> Result<_> {
        let run = scope.spawn(|| clients.run(&lab, 200, Duration::from_secs(90)));
        let forged = FloodSpec::syn(Sources::RANDOM_IPV4, 80);
        let mut flood = Flood::from_interface(&lab.client, SECOND_CLIENT_INTERFACE, &forged)?;
        flood.send_at(10, Duration::from_secs(90))?;
        run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    let stats = daemon.stats()?;
    let events = daemon.json("/events")?.to_string();
    ensure!(stats.half_open.datapath > 500, "{:?}", stats.half_open);
    ensure!(stats.state == "calm" && !events.contains("attack_started"), "{:?} {events}", stats.attack);
    ensure!(stats.totals.challenged == 0 && stats.totals.dropped == 0, "{:?}", stats.totals);
    ensure!(served.share() == 1.0, "{:.4} of {} were served", served.share(), served.tried);
    Ok(())
}

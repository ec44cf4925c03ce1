//! Safe reset with real clients: what a connection costs over several kinds of paths, and floods beside clients.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{
    Connections, FloodSpec, Scene, Sources,
    daemon::challenge_of,
    scene::WEB,
    ways::{Clients, PAUSE, ROUND_TRIP, Way},
};

/// Each connects for the first time once.
const CLIENTS: u8 = 40;
const THREADS: usize = 8;
/// Every port is challenged all the time.
const ALWAYS: &str = "[challenge]\nmode = \"always\"\nmethod = \"reset\"\n";

/// Connects over `way`, and checks that all are served, the first time one round trip later than the second.
fn costs_a_round_trip(way: Way) -> Result<()> {
    let scene = Scene::new(ALWAYS)?;
    scene.daemon.stats_when("the port is challenged", |stats| challenge_of(stats, WEB.port()) == Some("reset"))?;
    let clients = Clients::new(way, &scene.lab, CLIENTS)?;
    let (first, second) = (clients.connect(THREADS)?, clients.connect(THREADS)?);
    let stats = scene.daemon.stats()?;
    let resets = stats.drops.get("returned_reset").copied().unwrap_or_default();
    let times = |connections: &Connections| [0.5, 0.99].map(|share| connections.quantile(share));
    println!("{way:?}: challenged {:?}, not {:?}; {resets} resets", times(&first), times(&second));
    for connections in [&first, &second] {
        ensure!(connections.share() == 1.0, "{way:?}: {:?}", connections.troubles);
    }
    ensure!(resets == u64::from(CLIENTS), "{way:?}: {resets} resets of {CLIENTS} clients");
    ensure!(scene.has_cookie_settings_back()?, "settings of the kernel were changed");
    let limit = second.quantile(0.5) + ROUND_TRIP + PAUSE;
    ensure!(first.quantile(0.5) <= limit, "{way:?}: the median is {:?}, the limit {limit:?}", first.quantile(0.5));
    Ok(())
}

#[test]
fn a_first_connection_takes_a_round_trip_more() -> Result<()> {
    costs_a_round_trip(Way::Direct)
}

#[test]
fn likewise_over_ipv6() -> Result<()> {
    costs_a_round_trip(Way::DirectIpv6)
}

#[test]
fn likewise_behind_an_address_translation() -> Result<()> {
    costs_a_round_trip(Way::Nat)
}

#[test]
fn likewise_behind_one_that_chooses_ports_at_random() -> Result<()> {
    costs_a_round_trip(Way::RandomNat)
}

#[test]
fn likewise_behind_a_firewall_that_drops_what_is_invalid() -> Result<()> {
    costs_a_round_trip(Way::Firewall)
}

#[test]
fn where_no_resets_get_out_a_retransmit_is_let_in() -> Result<()> {
    let scene = Scene::new(ALWAYS)?;
    scene.daemon.stats_when("the port is challenged", |stats| challenge_of(stats, WEB.port()) == Some("reset"))?;
    let clients = Clients::new(Way::WithoutResets, &scene.lab, CLIENTS)?;
    let first = clients.connect(THREADS)?;
    println!("median {:?}, at most {:?}", first.quantile(0.5), first.quantile(1.0));
    ensure!(first.share() == 1.0, "{:?}", first.troubles);
    // As long as where first SYNs are dropped.
    ensure!(first.quantile(1.0) < Duration::from_millis(1500), "one took {:?}", first.quantile(1.0));
    Ok(())
}

#[test]
fn a_flood_from_random_sources_shuts_nobody_out() -> Result<()> {
    let scene = Scene::new("[challenge]\nmethod = \"reset\"\n")?;
    let clients = Clients::new(Way::Direct, &scene.lab, CLIENTS)?;
    let mut flood = scene.flood(&FloodSpec::syn(Sources::RANDOM_IPV4, WEB.port()))?;
    let (first, second) = flood.during(100_000, || {
        scene.daemon.stats_when("the port is challenged", |stats| challenge_of(stats, WEB.port()) == Some("reset"))?;
        Ok((clients.connect(THREADS)?, clients.connect(THREADS)?))
    })?;
    let stats = scene.daemon.stats()?;
    println!("challenged {:?}, not {:?}", first.quantile(0.99), second.quantile(0.99));
    ensure!(first.share() == 1.0 && second.share() == 1.0, "{:?} {:?}", first.troubles, second.troubles);
    ensure!(first.quantile(0.5) <= second.quantile(0.5) + ROUND_TRIP + PAUSE, "{:?}", first.quantile(0.5));
    ensure!(stats.totals.challenged > 100_000, "{:?}", stats.totals);
    ensure!(scene.has_cookie_settings_back()?, "settings of the kernel were changed");
    let let_in = stats.totals.syn - stats.totals.challenged;
    ensure!(let_in < 20_000, "{let_in} SYNs reach the kernel");
    Ok(())
}

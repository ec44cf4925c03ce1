//! Gateways between a router and a server: as a router, as a bridge, and two of them that share a key.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt,
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use lab::{
    Client, Daemon, Flood, FloodSpec, Setup, Sources, Stats,
    network::SECOND_CLIENT_INTERFACE,
    redirect::BEHIND,
    server::{self, Echo},
    site::{Link, OUTER, Site},
    wait::beside,
    ways::{Clients, PAUSE, ROUND_TRIP, Way},
};
use nix::sys::signal::Signal;
use tempfile::TempDir;

const CLIENTS: u8 = 40;
const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(BEHIND), 80);

fn protect(interfaces: &[&str], challenge: &str) -> String {
    format!(
        "interfaces = {interfaces:?}\n[thresholds]\nhold = \"2s\"\n[challenge]\n{challenge}\n\
         [[protect]]\nname = \"shop\"\nnetworks = [\"{BEHIND}\"]\nports = [80]\n"
    )
}

/// Returns clients of the site's server that can reach it.
fn clients(site: &Site) -> Result<Clients> {
    let clients = Clients::new(Way::Direct, &site.outer, CLIENTS)?.of(SERVER);
    // The neighbours find each other.
    Client::in_namespace(clients.namespace()).fetch(SERVER)?;
    Ok(clients)
}

fn serve(site: &Site) -> Result<Echo> {
    server::echo(&site.behind, "0.0.0.0:80", 2)
}

/// Checks that clients behind `link` are challenged by reset, and served a round trip later than others.
fn costs_a_round_trip(link: Link, interfaces: &[&str]) -> Result<()> {
    let site = Site::new(&[link])?;
    let _service = serve(&site)?;
    let clients = clients(&site)?;
    let daemon =
        Setup::new(&site.gateways[0])?.config(&protect(interfaces, "mode = \"always\"\nmethod = \"reset\"")).start()?;
    daemon.stats_when("the port is challenged", |stats| stats.protected[0].method.is_some())?;
    let (first, second) = (clients.connect(8)?, clients.connect(8)?);
    let stats = daemon.stats_when("all have completed", |stats| stats.protected[0].ports[0].completed >= 80)?;
    println!("{link:?}: challenged {:?}, not {:?}", first.quantile(0.5), second.quantile(0.5));
    for connections in [&first, &second] {
        ensure!(connections.share() == 1.0, "{link:?}: {:?}", connections.troubles);
    }
    ensure!(stats.drops["returned_reset"] == u64::from(CLIENTS), "{link:?}: {:?} {:?}", stats.drops, stats.totals);
    ensure!(stats.protected[0].half_open == 0 && stats.protected[0].return_path == "here", "{:?}", stats.protected);
    ensure!(first.quantile(0.5) <= second.quantile(0.5) + ROUND_TRIP + PAUSE, "{link:?}: {:?}", first.quantile(0.5));
    Ok(())
}

#[test]
fn a_router_challenges_what_it_forwards() -> Result<()> {
    costs_a_round_trip(Link::Router, &[OUTER])
}

#[test]
fn likewise_with_both_sides_guarded() -> Result<()> {
    costs_a_round_trip(Link::Router, &[OUTER, "lan"])
}

#[test]
fn likewise_as_a_bridge() -> Result<()> {
    costs_a_round_trip(Link::Bridge, &[OUTER])
}

/// Starts a daemon on each gateway of a site, with a common key.
fn guard_all(site: &Site) -> Result<(Vec<Daemon>, TempDir)> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("key");
    fs::write(&file, "00112233445566778899aabbccddeeff\n")?;
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600))?;
    let config = protect(&[OUTER], &format!("key_file = \"{}\"", file.display()));
    let start = |lab| Setup::new(lab)?.config(&config).start();
    Ok((site.gateways.iter().map(start).collect::<Result<_>>()?, folder))
}

#[test]
fn of_two_gateways_one_may_fail_during_a_flood() -> Result<()> {
    let site = Site::new(&[Link::Router, Link::Router])?;
    let _service = serve(&site)?;
    let clients = clients(&site)?;
    let (mut daemons, folder) = guard_all(&site)?;
    let spec = FloodSpec::syn(Sources::RANDOM_IPV4, 80).to(BEHIND.into());
    let mut flood = Flood::from_interface(&site.outer.client, SECOND_CLIENT_INTERFACE, &spec)?;
    let is_challenged = |stats: &Stats| stats.protected[0].method.is_some();
    let (_, served) = flood.during(30_000, || {
        for daemon in &daemons {
            daemon.stats_when("each gateway challenges", is_challenged)?;
        }
        let client = Client::in_namespace(clients.namespace());
        beside(
            |goes_on| client.run_from(clients.addresses(), SERVER, 20, Duration::from_secs(20), goes_on),
            || {
                thread::sleep(Duration::from_secs(3));
                // A new key, while clients are being challenged.
                fs::write(folder.path().join("key"), "ffeeddccbbaa99887766554433221100\n")?;
                thread::sleep(Duration::from_secs(3));
                daemons[0].end(Signal::SIGKILL)?;
                site.gateways[0].server.ip(&format!("link set {OUTER} down"))?;
                site.route(&[1])?;
                thread::sleep(Duration::from_secs(4));
                Ok(())
            },
        )
    })?;
    ensure!(served.share() == 1.0, "{} of {}: {:?}", served.served(), served.tried, served.troubles);
    let stats = daemons[1].stats()?;
    ensure!(stats.drops["returned_reset"] > 0 && stats.measures.blocks == 0, "{:?}", stats.drops);
    println!("{} of {} served, p99 {:?}", served.served(), served.tried, served.quantile(0.99));
    Ok(())
}

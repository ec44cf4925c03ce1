//! Safe reset with real clients: what a connection costs over several kinds of paths, and floods beside clients.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Result, ensure};
use lab::{
    Client, Connections, FarClient, FloodSpec, Namespace, Path, Scene, Sources, daemon::challenge_of,
    network::SERVER_IPV6, redirect::nft, scene::WEB,
};

const ROUND_TRIP: Duration = Duration::from_millis(80);
/// What a client may take in addition to another round trip: Linux sends its SYN again two jiffies after the reset.
const PAUSE: Duration = Duration::from_millis(15);
/// Each connects for the first time once.
const CLIENTS: u8 = 40;
const THREADS: usize = 8;
/// Every port is challenged all the time.
const ALWAYS: &str = "[challenge]\nmode = \"always\"\nmethod = \"reset\"\n";

/// What lies between the clients and the cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Direct,
    DirectIpv6,
    /// A router that gives each client another address.
    Nat,
    /// The same, and each connection another port, which changes when a reset has passed.
    RandomNat,
    /// A router that drops what belongs to no connection that it knows.
    Firewall,
    /// A firewall that lets no resets out.
    WithoutResets,
}

/// The clients, and all that they need to exist.
struct Clients {
    client: Client,
    addresses: Vec<IpAddr>,
    server: SocketAddr,
    _far: FarClient,
    _router: Option<Namespace>,
}

impl Clients {
    fn behind(way: Way, scene: &Scene) -> Result<Self> {
        let outer: Vec<IpAddr> = (1..=CLIENTS).map(|n| Ipv4Addr::new(198, 18, 60, n).into()).collect();
        let ipv6 = |n: u8| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0x3c, 1, 0, 0, 0, n.into()));
        let addresses = if way == Way::DirectIpv6 { (1..=CLIENTS).map(ipv6).collect() } else { outer };
        let path = Path::milliseconds(ROUND_TRIP.as_millis() as u64);
        let far = scene.lab.far_client(&addresses, path, way != Way::WithoutResets)?;
        let server = if way == Way::DirectIpv6 { SocketAddr::new(SERVER_IPV6.into(), WEB.port()) } else { WEB };
        if !matches!(way, Way::Nat | Way::RandomNat | Way::Firewall) {
            return Ok(Self {
                client: Client::in_namespace(&far.namespace),
                addresses,
                server,
                _far: far,
                _router: None,
            });
        }
        let inner = Namespace::new()?;
        let addresses = behind_router(&far.namespace, &inner, way)?;
        Ok(Self { client: Client::in_namespace(&inner), addresses, server, _far: far, _router: Some(inner) })
    }

    /// Opens a connection from each address, and returns the results.
    fn connect(&self) -> Result<Connections> {
        self.client.each_once(&self.addresses, self.server, THREADS)
    }
}

/// Makes `router` one between `inner` and the cable, and returns the addresses of `inner`.
fn behind_router(router: &Namespace, inner: &Namespace, way: Way) -> Result<Vec<IpAddr>> {
    router.ip(&format!("link add to-inner type veth peer name inner netns {}", inner.path()))?;
    router.ip("addr add 198.18.62.254/24 dev to-inner")?;
    router.ip("link set to-inner up")?;
    inner.ip("link set inner up")?;
    let network = if way == Way::Firewall { 60 } else { 62 };
    let addresses: Vec<IpAddr> = (1..=CLIENTS).map(|n| Ipv4Addr::new(198, 18, network, n).into()).collect();
    inner.ip("addr add 198.18.62.253/24 dev inner")?;
    for address in &addresses {
        inner.ip(&format!("addr add {address}/32 dev inner"))?;
        if way == Way::Firewall {
            // The router had them to answer for them; now they are behind it.
            router.ip(&format!("addr del {address}/32 dev far"))?;
            router.ip(&format!("route add {address}/32 dev to-inner"))?;
        }
    }
    // The route went with the last address.
    router.ip("route replace default dev far")?;
    inner.ip("route add default via 198.18.62.254")?;
    router.sysctl("net.ipv4.ip_forward", "1")?;
    let rules: String = match way {
        Way::Firewall => "chain forward {\ntype filter hook forward priority 0;\nct state invalid drop\n\
             ct state established,related accept\niifname \"to-inner\" ct state new accept\ndrop\n}\n"
            .to_owned(),
        _ => {
            let port = if way == Way::RandomNat { "fully-random" } else { "" };
            let rule = |n: u8| format!("ip saddr 198.18.62.{n} snat to 198.18.60.{n} {port}\n");
            let all: String = (1..=CLIENTS).map(rule).collect();
            format!("chain postrouting {{\ntype nat hook postrouting priority 100;\n{all}}}\n")
        }
    };
    nft(router, &format!("table ip lab {{\n{rules}}}\n"))?;
    Ok(addresses)
}

/// Connects over `way`, and checks that all are served, the first time one round trip later than the second.
fn costs_a_round_trip(way: Way) -> Result<()> {
    let scene = Scene::new(ALWAYS)?;
    scene.daemon.stats_when("the port is challenged", |stats| challenge_of(stats, WEB.port()) == Some("reset"))?;
    let clients = Clients::behind(way, &scene)?;
    let (first, second) = (clients.connect()?, clients.connect()?);
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
    let clients = Clients::behind(Way::WithoutResets, &scene)?;
    let first = clients.connect()?;
    println!("median {:?}, at most {:?}", first.quantile(0.5), first.quantile(1.0));
    ensure!(first.share() == 1.0, "{:?}", first.troubles);
    // As long as where first SYNs are dropped.
    ensure!(first.quantile(1.0) < Duration::from_millis(1500), "one took {:?}", first.quantile(1.0));
    Ok(())
}

#[test]
fn a_flood_from_random_sources_shuts_nobody_out() -> Result<()> {
    let scene = Scene::new("[challenge]\nmethod = \"reset\"\n")?;
    let clients = Clients::behind(Way::Direct, &scene)?;
    let mut flood = scene.flood(&FloodSpec::syn(Sources::RANDOM_IPV4, WEB.port()))?;
    let (first, second) = flood.during(100_000, || {
        scene.daemon.stats_when("the port is challenged", |stats| challenge_of(stats, WEB.port()) == Some("reset"))?;
        Ok((clients.connect()?, clients.connect()?))
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

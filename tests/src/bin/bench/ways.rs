//! What a client's connection takes that is challenged in calm, over several kinds of ways: by each method, compared with
//! the same connection where none is challenged.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::Result;
use lab::{
    Client, Connections, Daemon, Namespace, Scene, Setup,
    daemon::challenge_of,
    network::SERVER_IPV4,
    redirect::{BEHIND, PUBLISHED, answer_past, host_behind, publish, until_found},
    scene::WEB,
    server::{self, Echo},
    site::{Link, OUTER, Site},
    ways::{Clients, PAUSE, ROUND_TRIP, Way},
};

use super::Effort;

/// Connections under way at the same time.
const AT_A_TIME: usize = 20;
const METHODS: [&str; 3] = ["cookie", "reset", "retransmit"];
const BEHIND_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(BEHIND), 80);
const PUBLISHED_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(SERVER_IPV4), PUBLISHED);

/// Where the server is, as seen by the host that runs the daemon.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Server {
    /// On the host, whose clients are behind this.
    Host(Way),
    /// In a container, to which a port of the host leads (DNAT).
    Container,
    /// Behind the host, which is a router.
    Router,
    /// The same, and its answers take another way.
    OneWay,
    /// Behind the host, which is a bridge.
    Bridge,
}

const SERVERS: [(&str, Server); 9] = [
    ("direct", Server::Host(Way::Direct)),
    ("direct, IPv6", Server::Host(Way::DirectIpv6)),
    ("clients behind address translation", Server::Host(Way::Nat)),
    ("the same, ports at random", Server::Host(Way::RandomNat)),
    ("clients behind a firewall: invalid drop", Server::Host(Way::Firewall)),
    ("server in a container, DNAT", Server::Container),
    ("server behind a router", Server::Router),
    ("server behind a bridge", Server::Bridge),
    ("answers take another way", Server::OneWay),
];

pub fn costs(effort: &Effort) -> Result<()> {
    println!(
        "\nConnecting over {} ms when every port is challenged, each client for the first time",
        ROUND_TRIP.as_millis()
    );
    println!("{:<40} {:<15} {:>9} {:>11} {:>11} {:>12}", "", "", "served", "median, ms", "p99, ms", "median more");
    let parts = SERVERS.map(|(name, server)| (name, move || compare(name, server, effort.clients_of_ways)));
    let parts: Vec<super::Part<'_>> =
        parts.iter().take(effort.ways).map(|(name, part)| (*name, part as &dyn Fn() -> Result<()>)).collect();
    super::in_turn(&parts)
}

fn compare(name: &str, server: Server, clients: u8) -> Result<()> {
    let calm = measure(server, None, clients)?;
    report(name, "not challenged", &calm, None);
    for method in METHODS {
        // Cookies need a listener of the host itself.
        if method == "cookie" && !matches!(server, Server::Host(_)) {
            println!("{:<40} {method:<15} {:>9}", "", "-");
            continue;
        }
        let challenged = measure(server, Some(method), clients)?;
        report("", method, &challenged, Some((calm.quantile(0.5), method)));
    }
    Ok(())
}

fn report(name: &str, method: &str, connections: &Connections, compared: Option<(Duration, &str)>) {
    let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
    let median = milliseconds(connections.quantile(0.5));
    let more = compared.map_or_else(String::new, |(calm, method)| {
        let (more, limit) = (median - milliseconds(calm), milliseconds(ROUND_TRIP + PAUSE));
        let is_over = method == "reset" && (more > limit || connections.share() < 1.0);
        format!("{more:.1}{}", if is_over { format!("  over the limit of {limit:.0}") } else { String::new() })
    });
    println!(
        "{name:<40} {method:<15} {:>7.1} % {median:>11.1} {:>11.1} {more:>12}",
        connections.share() * 100.0,
        milliseconds(connections.quantile(0.99)),
    );
}

/// Connects from each client once, while every port is challenged by this method, or none is.
fn measure(server: Server, method: Option<&str>, clients: u8) -> Result<Connections> {
    let challenge = match method {
        Some(method) => format!("[challenge]\nmode = \"always\"\nmethod = \"{method}\"\n"),
        None => "[challenge]\nmode = \"never\"\n".to_owned(),
    };
    let set_up = SetUp::new(server, &challenge, clients)?;
    if let Some(method) = method {
        set_up.daemon().stats_when(method, |stats| match server {
            Server::Host(_) => challenge_of(stats, WEB.port()) == Some(method),
            Server::Container => challenge_of(stats, PUBLISHED) == Some(method),
            _ => stats.protected[0].method.as_deref() == Some(method),
        })?;
    }
    let connections = set_up.clients.connect(AT_A_TIME)?;
    if method.is_some() {
        set_up.daemon().stats_when("each client was challenged", |stats| {
            stats.totals.challenged + stats.drops["first_syn"] >= clients.into()
        })?;
    }
    Ok(connections)
}

/// Clients, a server and a daemon. The fields are dropped in this order.
struct SetUp {
    clients: Clients,
    host: Host,
    _behind: Option<(Namespace, Echo)>,
}

/// The host that runs the daemon.
enum Host {
    Scene(Box<Scene>),
    Site { daemon: Box<Daemon>, _site: Box<Site>, _service: Echo },
}

impl SetUp {
    fn new(server: Server, challenge: &str, clients: u8) -> Result<Self> {
        let protect = format!("[[protect]]\nname = \"shop\"\nnetworks = [\"{BEHIND}\"]\nports = [80]\n");
        if server == Server::Bridge {
            return Self::behind_bridge(&format!("{challenge}{protect}"), clients);
        }
        let is_gateway = matches!(server, Server::Router | Server::OneWay);
        let scene = Scene::new(&format!("{challenge}{}", if is_gateway { protect.as_str() } else { "" }))?;
        let way = if let Server::Host(way) = server { way } else { Way::Direct };
        let clients = Clients::new(way, &scene.lab, clients)?;
        if let Server::Host(_) = server {
            return Ok(Self { clients, host: Host::Scene(Box::new(scene)), _behind: None });
        }
        let behind = host_behind(&scene.lab)?;
        let service = server::echo(&behind, "0.0.0.0:80", 2)?;
        let clients = clients.of(BEHIND_PORT);
        let clients = match server {
            Server::Container => {
                publish(&scene.lab)?;
                until_found(&Client::new(&scene.lab), &scene.daemon, PUBLISHED_PORT)?;
                clients.of(PUBLISHED_PORT)
            }
            Server::OneWay => {
                answer_past(&behind, clients.namespace(), &["198.18.60.0/24"])?;
                clients
            }
            _ => clients,
        };
        Ok(Self { clients, host: Host::Scene(Box::new(scene)), _behind: Some((behind, service)) })
    }

    fn behind_bridge(config: &str, clients: u8) -> Result<Self> {
        let site = Site::new(&[Link::Bridge])?;
        let service = server::echo(&site.behind, "0.0.0.0:80", 2)?;
        let clients = Clients::new(Way::Direct, &site.outer, clients)?.of(BEHIND_PORT);
        // The neighbours find each other.
        Client::in_namespace(clients.namespace()).fetch(BEHIND_PORT)?;
        let daemon = Setup::new(&site.gateways[0])?.config(&format!("interfaces = [\"{OUTER}\"]\n{config}")).start()?;
        let host = Host::Site { daemon: Box::new(daemon), _site: Box::new(site), _service: service };
        Ok(Self { clients, host, _behind: None })
    }

    fn daemon(&self) -> &Daemon {
        match &self.host {
            Host::Scene(scene) => &scene.daemon,
            Host::Site { daemon, .. } => daemon,
        }
    }
}

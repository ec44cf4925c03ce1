//! Ways between clients and the cable: at a distance, behind an address translation or a firewall.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::Result;

use crate::{
    client::{Client, Connections},
    distance::{FarClient, Path},
    namespace::Namespace,
    network::{Lab, SERVER_IPV6},
    redirect::nft,
    scene::WEB,
};

/// The round-trip time of every way.
pub const ROUND_TRIP: Duration = Duration::from_millis(80);
/// What a client that is challenged by reset may take in addition to another round trip: Linux sends its SYN again two jiffies
/// after the reset.
pub const PAUSE: Duration = Duration::from_millis(15);

/// What lies between the clients and the cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Nothing but distance.
    Direct,
    /// The same, over IPv6.
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

/// Clients, each with an address of its own, and all that they need to exist.
pub struct Clients {
    client: Client,
    addresses: Vec<IpAddr>,
    server: SocketAddr,
    far: FarClient,
    _router: Option<Namespace>,
}

impl Clients {
    /// Creates so many clients of nginx in the lab.
    ///
    /// # Errors
    /// Returns an error if a step fails.
    pub fn new(way: Way, lab: &Lab, count: u8) -> Result<Self> {
        let outer: Vec<IpAddr> = (1..=count).map(|n| Ipv4Addr::new(198, 18, 60, n).into()).collect();
        let ipv6 = |n: u8| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0x3c, 1, 0, 0, 0, n.into()));
        let addresses = if way == Way::DirectIpv6 { (1..=count).map(ipv6).collect() } else { outer };
        let path = Path::milliseconds(ROUND_TRIP.as_millis() as u64);
        let far = lab.far_client(&addresses, path, way != Way::WithoutResets)?;
        let server = if way == Way::DirectIpv6 { SocketAddr::new(SERVER_IPV6.into(), WEB.port()) } else { WEB };
        let (addresses, router) = if matches!(way, Way::Nat | Way::RandomNat | Way::Firewall) {
            let inner = Namespace::new()?;
            (behind_router(&far.namespace, &inner, way, count)?, Some(inner))
        } else {
            (addresses, None)
        };
        let client = Client::in_namespace(router.as_ref().unwrap_or(&far.namespace));
        Ok(Self { client, addresses, server, far, _router: router })
    }

    /// Has the clients connect to another server.
    #[must_use]
    pub fn of(self, server: SocketAddr) -> Self {
        Self { server, ..self }
    }

    /// Returns the clients' addresses, as they have them.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Returns the namespace at the far end of the way.
    pub fn namespace(&self) -> &Namespace {
        &self.far.namespace
    }

    /// Opens a connection from each address, so many at a time, and returns the results.
    ///
    /// # Errors
    /// Returns an error if connections cannot be tried.
    pub fn connect(&self, at_a_time: usize) -> Result<Connections> {
        self.client.each_once(&self.addresses, self.server, at_a_time)
    }
}

/// Makes `router` one between `inner` and the cable, and returns the addresses of `inner`.
fn behind_router(router: &Namespace, inner: &Namespace, way: Way, count: u8) -> Result<Vec<IpAddr>> {
    router.ip(&format!("link add to-inner type veth peer name inner netns {}", inner.path()))?;
    router.ip("addr add 198.18.62.254/24 dev to-inner")?;
    router.ip("link set to-inner up")?;
    inner.ip("link set inner up")?;
    let network = if way == Way::Firewall { 60 } else { 62 };
    let addresses: Vec<IpAddr> = (1..=count).map(|n| Ipv4Addr::new(198, 18, network, n).into()).collect();
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
            let all: String = (1..=count).map(rule).collect();
            format!("chain postrouting {{\ntype nat hook postrouting priority 100;\n{all}}}\n")
        }
    };
    nft(router, &format!("table ip lab {{\n{rules}}}\n"))?;
    Ok(addresses)
}

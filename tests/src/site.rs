//! A site: a server behind one or several gateways, which clients and floods reach through a router. Each gateway is the
//! server of a lab of its own, in which a daemon can be started; the router is that of another one.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};

use crate::{
    namespace::Namespace,
    network::{Lab, SERVER_INTERFACE},
    redirect::BEHIND,
    reply_path::ReplyPath,
};

/// The interface of each gateway that leads to the router.
pub const OUTER: &str = "wan";

/// What connects the router to a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// The gateway routes.
    Router,
    /// The gateway is a bridge between router and server.
    Bridge,
}

/// A site, removed when it is dropped.
pub struct Site {
    /// Its server is the router.
    pub outer: Lab,
    /// The server of each is a gateway.
    pub gateways: Vec<Lab>,
    /// The server behind the gateways, with the address [`BEHIND`].
    pub behind: Namespace,
    is_bridge: bool,
    reply_paths: Vec<ReplyPath>,
}

impl Site {
    /// Creates a site with a gateway for each of `links`; a bridge has to be the only one.
    ///
    /// # Errors
    /// Returns an error if a step fails.
    pub fn new(links: &[Link]) -> Result<Self> {
        let outer = Lab::new()?;
        outer.lay_second_cable()?;
        outer.receive_without_daemon()?;
        let behind = Namespace::new()?;
        behind.ip("link set lo up")?;
        behind.ip(&format!("addr add {BEHIND}/32 dev lo"))?;
        outer.server.sysctl("net.ipv4.ip_forward", "1")?;
        // By ports as well, so that connections of one client take several ways.
        outer.server.sysctl("net.ipv4.fib_multipath_hash_policy", "1")?;
        behind.sysctl("net.ipv4.fib_multipath_hash_policy", "1")?;
        let gateways = (0..links.len()).map(|_| Lab::new()).collect::<Result<Vec<_>>>()?;
        let is_bridge = links.contains(&Link::Bridge);
        let mut site = Self { outer, gateways, behind, is_bridge, reply_paths: Vec::new() };
        for (index, link) in links.iter().enumerate() {
            site.connect(index, *link)?;
        }
        site.route((0..links.len()).collect::<Vec<_>>().as_slice())?;
        Ok(site)
    }

    /// Routes what is for the server, and its answers, through these gateways.
    ///
    /// # Errors
    /// Returns an error if a step fails.
    pub fn route(&self, gateways: &[usize]) -> Result<()> {
        let hops = |hop: fn(usize) -> Ipv4Addr| -> String {
            gateways.iter().map(|index| format!(" nexthop via {}", hop(*index))).collect()
        };
        // Through a bridge, each reaches the other.
        let back = if self.is_bridge { outer_of_gateway } else { inner_of_server };
        self.outer.server.ip(&format!("route replace {BEHIND}/32{}", hops(inner_of_router)))?;
        self.behind.ip(&format!("route replace default{}", hops(back)))
    }

    fn connect(&mut self, index: usize, link: Link) -> Result<()> {
        let (router, gateway) = (self.outer.server.clone(), self.gateways[index].server.clone());
        let to_gateway = format!("to-gw{index}");
        router.ip(&format!("link add {to_gateway} type veth peer name {OUTER} netns {}", gateway.path()))?;
        gateway.ip(&format!("link add lan type veth peer name from-gw{index} netns {}", self.behind.path()))?;
        let ends = [(&router, to_gateway.as_str()), (&gateway, OUTER), (&gateway, "lan")];
        for (namespace, interface) in ends {
            namespace.ip(&format!("link set {interface} up"))?;
        }
        let from_gateway = format!("from-gw{index}");
        self.behind.ip(&format!("link set {from_gateway} up"))?;
        // What a native XDP program sends back is received at once only where there is one, too (veth_xdp_flush).
        self.reply_paths.push(router.within(|| ReplyPath::attach(&to_gateway))?);
        if link == Link::Bridge {
            return self.bridge(&to_gateway, &from_gateway);
        }
        router.ip(&format!("addr add {}/30 dev {to_gateway}", outer_of_gateway(index)))?;
        gateway.ip(&format!("addr add {}/30 dev {OUTER}", inner_of_router(index)))?;
        gateway.ip(&format!("addr add {}/30 dev lan", inner_of_server(index)))?;
        self.behind.ip(&format!("addr add {}/30 dev {from_gateway}", outer_of_server(index)))?;
        gateway.ip(&format!("route add {BEHIND}/32 via {}", outer_of_server(index)))?;
        // Instead of the route to the gateway's own cable.
        gateway.ip(&format!("route del 198.18.0.0/15 dev {SERVER_INTERFACE}"))?;
        gateway.ip(&format!("route add 198.18.0.0/15 via {}", outer_of_gateway(index)))?;
        gateway.sysctl("net.ipv4.ip_forward", "1")
    }

    /// Makes the only gateway a bridge: router and server are in one network.
    fn bridge(&self, to_gateway: &str, from_gateway: &str) -> Result<()> {
        ensure!(self.gateways.len() == 1, "a bridge has to be the only gateway");
        let gateway = &self.gateways[0].server;
        gateway.ip("link add joined type bridge")?;
        for port in [OUTER, "lan"] {
            gateway.ip(&format!("link set {port} master joined"))?;
        }
        gateway.ip("link set joined up")?;
        self.outer.server.ip(&format!("addr add {}/30 dev {to_gateway}", outer_of_gateway(0)))?;
        self.behind.ip(&format!("addr add {}/30 dev {from_gateway}", inner_of_router(0)))
    }
}

/// The router's address on its link to a gateway.
fn outer_of_gateway(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, 120, 4 * index as u8 + 1)
}

/// The gateway's address on that link, or that of the server behind a bridge.
fn inner_of_router(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, 120, 4 * index as u8 + 2)
}

/// The server's address on its link to a gateway.
fn outer_of_server(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, 130, 4 * index as u8 + 1)
}

/// The gateway's address on that link.
fn inner_of_server(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, 130, 4 * index as u8 + 2)
}

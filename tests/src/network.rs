//! A server, a client, and a cable (a veth pair) between them.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use ipnet::IpNet;
use nix::{net::if_::if_nametoindex, sys::socket::Backlog};

pub use crate::addresses::*;
use crate::{
    distance::{FarClient, Path},
    namespace::Namespace,
    reply_path::ReplyPath,
};

/// Two namespaces and a veth pair, all removed when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Lab {
    reply_paths: Arc<Mutex<Vec<ReplyPath>>>,
    /// Listens on [`DISCARD_PORT`].
    _discard: Option<Arc<TcpListener>>,
    /// The namespace of the server and the daemon.
    pub server: Namespace,
    /// The namespace at the other end of the cable: that of floods and, unless they are at a distance, of clients.
    pub client: Namespace,
    /// The namespace of clients.
    pub clients: Namespace,
    far: Option<Arc<FarClient>>,
}

impl Lab {
    /// Creates a lab.
    ///
    /// # Errors
    /// Returns an error without root, or if the kernel lacks veth.
    pub fn new() -> Result<Self> {
        let (server, client) = (Namespace::new()?, Namespace::new()?);
        let discard = server.within(|| {
            let listener =
                TcpListener::bind((Ipv6Addr::UNSPECIFIED, DISCARD_PORT)).context("the discard port is in use")?;
            // The backlog is raised: a queue that overflows would be evidence by itself.
            nix::sys::socket::listen(&listener, Backlog::MAXCONN).context("cannot listen on the discard port")?;
            Ok(listener)
        })?;
        let lab = Self { _discard: Some(Arc::new(discard)), ..Self::of(server, client) };
        lab.plug_in().context("cannot set up the lab's network")?;
        Ok(lab)
    }

    /// Creates a lab whose server is the namespace of this process, for a virtual machine.
    ///
    /// # Errors
    /// Returns an error without root, or if the kernel lacks veth.
    pub fn at_home() -> Result<Self> {
        let (server, client) = (Namespace::own()?, Namespace::new()?);
        let lab = Self::of(server, client);
        lab.plug_in().context("cannot set up the lab's network")?;
        Ok(lab)
    }

    /// Joins the lab that another process created with [`Lab::at_home`]; `client` is the path of the client's
    /// namespace.
    ///
    /// # Errors
    /// Returns an error if the namespace cannot be opened.
    pub fn join(client: &str) -> Result<Self> {
        let (server, client) = (Namespace::own()?, Namespace::at(client)?);
        Ok(Self::of(server, client))
    }

    fn of(server: Namespace, client: Namespace) -> Self {
        let clients = client.clone();
        Self { server, client, clients, reply_paths: Arc::default(), far: None, _discard: None }
    }

    /// Creates a lab whose clients are at a distance. Floods are not.
    ///
    /// # Errors
    /// See [`Lab::new`] and [`Lab::far_client`].
    pub fn at_distance(path: Path) -> Result<Self> {
        let lab = Self::new()?;
        // The clients have the addresses instead.
        lab.client.ip(&format!("addr flush dev {CLIENT_INTERFACE}"))?;
        let far = lab.far_client(&[CLIENT_IPV4.into(), CLIENT_IPV6.into()], path, true)?;
        Ok(Self { clients: far.namespace.clone(), far: Some(Arc::new(far)), ..lab })
    }

    /// Creates a client at a distance with these addresses, none of which may be the lab's client's. A host that sends no
    /// resets is behind a firewall that drops them.
    ///
    /// # Errors
    /// Returns an error if the kernel lacks TUN or a step fails.
    pub fn far_client(&self, addresses: &[IpAddr], path: Path, sends_resets: bool) -> Result<FarClient> {
        let far = FarClient::create(&self.server, &self.client, path, sends_resets)?;
        addresses.iter().try_for_each(|address| self.add_far_address(&far, *address))?;
        Ok(far)
    }

    fn add_far_address(&self, far: &FarClient, address: IpAddr) -> Result<()> {
        far.add_address(address)?;
        self.lead_clients(&IpNet::from(address).to_string())
    }

    /// Returns the name of the clients' interface.
    pub const fn clients_interface(&self) -> &'static str {
        if self.is_far() { crate::distance::DEVICE } else { CLIENT_INTERFACE }
    }

    /// Returns `true` if the clients are at a distance.
    pub const fn is_far(&self) -> bool {
        self.far.is_some()
    }

    /// Creates the cable, addresses and routes; also used to restore them after [`Lab::unplug`].
    ///
    /// # Errors
    /// Returns an error if one of the steps fails.
    pub fn plug_in(&self) -> Result<()> {
        self.lay_cable(SERVER_INTERFACE, CLIENT_INTERFACE)?;
        self.server.ip(&format!("addr add {SERVER_IPV4}/30 dev {SERVER_INTERFACE}"))?;
        self.server.ip(&format!("addr add {SERVER_IPV6}/126 dev {SERVER_INTERFACE} nodad"))?;
        self.client.ip(&format!("addr add {CLIENT_IPV4}/30 dev {CLIENT_INTERFACE}"))?;
        self.client.ip(&format!("addr add {CLIENT_IPV6}/126 dev {CLIENT_INTERFACE} nodad"))?;
        self.lead_floods(SERVER_INTERFACE)?;
        for server in [IpAddr::from(SERVER_IPV4), IpAddr::from(SERVER_IPV6)] {
            self.client.ip(&format!("neigh replace {server} lladdr {} dev {CLIENT_INTERFACE}", mac(SERVER_MAC)))?;
        }
        Ok(())
    }

    /// Lets replies to any source of a flood leave through `interface` of the server.
    fn lead_floods(&self, interface: &str) -> Result<()> {
        self.lead("198.18.0.0/15", interface)?;
        self.lead("2001:db8::/32", interface)
    }

    /// Routes `range` to the client's end through `interface` of the server, without neighbour discovery.
    fn lead(&self, range: &str, interface: &str) -> Result<()> {
        // An IPv6 gateway must not be reachable through another interface, so this one is link-local.
        let neighbour = if range.contains(':') { "fe80::2".to_owned() } else { CLIENT_IPV4.to_string() };
        self.server.ip(&format!("neigh replace {neighbour} lladdr {} dev {interface}", mac(CLIENT_MAC)))?;
        self.server.ip(&format!("route replace {range} via {neighbour} dev {interface} onlink"))
    }

    /// Restores the IPv4 routes that were lost when the server's end, now called `interface`, went down.
    ///
    /// # Errors
    /// Returns an error if one of the steps fails.
    pub fn restore_routes(&self, interface: &str) -> Result<()> {
        self.lead("198.18.0.0/15", interface)
    }

    /// Creates the second cable. It has no addresses, since it is only for floods.
    ///
    /// Replies to floods leave through it as well. Where the kernel has accepted some hundred forged SYNs, it repeats all
    /// their SYN-ACKs at once a second later, more than the 256 frames that a veth device queues (`VETH_RING_SIZE` in
    /// drivers/net/veth.c). On the first cable, a client's SYN-ACK would be lost among them.
    ///
    /// # Errors
    /// Returns an error if one of the steps fails.
    pub fn lay_second_cable(&self) -> Result<()> {
        self.lay_cable(SECOND_SERVER_INTERFACE, SECOND_CLIENT_INTERFACE)?;
        self.lead_floods(SECOND_SERVER_INTERFACE)
    }

    fn lay_cable(&self, server_end: &str, client_end: &str) -> Result<()> {
        let client = self.client.path();
        self.server.ip(&format!(
            "link add {server_end} address {} type veth peer name {client_end} address {} netns {client}",
            mac(SERVER_MAC),
            mac(CLIENT_MAC)
        ))?;
        for (namespace, interface) in [(&self.server, server_end), (&self.client, client_end)] {
            namespace.sysctl(&format!("net.ipv6.conf.{interface}.accept_dad"), "0")?;
            namespace.sysctl(&format!("net.ipv6.conf.{interface}.router_solicitations"), "0")?;
            namespace.ip(&format!("link set {interface} up"))?;
        }
        let reply_path = self.client.within(|| ReplyPath::attach(client_end))?;
        self.reply_paths.lock().unwrap_or_else(PoisonError::into_inner).push(reply_path);
        Ok(())
    }

    /// Lets the server receive floods without XDP on each existing cable: veth accepts live frames only with NAPI,
    /// which an XDP program enables, as does GRO.
    ///
    /// # Errors
    /// Returns an error if ethtool is not installed or fails.
    pub fn receive_without_daemon(&self) -> Result<()> {
        for interface in [SERVER_INTERFACE, SECOND_SERVER_INTERFACE] {
            if self.server.within(|| Ok(if_nametoindex(interface).is_err()))? {
                continue;
            }
            self.server.set_offload(interface, "gro", true)?;
        }
        Ok(())
    }

    /// Removes the first cable.
    ///
    /// # Errors
    /// Returns an error if the cable does not exist.
    pub fn unplug(&self) -> Result<()> {
        self.server.ip(&format!("link del {SERVER_INTERFACE}"))
    }

    /// Adds an address to the client, on the first cable.
    ///
    /// # Errors
    /// Returns an error if the kernel rejects it.
    pub fn add_client_address(&self, address: IpAddr) -> Result<()> {
        if let Some(far) = &self.far {
            return self.add_far_address(far, address);
        }
        let length = if address.is_ipv4() { 32 } else { 128 };
        let flags = if address.is_ipv4() { "" } else { "nodad" };
        self.client.ip(&format!("addr add {address}/{length} dev {CLIENT_INTERFACE} {flags}"))?;
        self.lead_clients(&format!("{address}/{length}"))
    }

    /// Adds addresses to the server, scattered: `first` and every seventh one after it, which the client reaches as well.
    ///
    /// # Errors
    /// Returns an error if one of the steps fails.
    pub fn add_server_addresses(&self, first: Ipv4Addr, count: u32) -> Result<Vec<Ipv4Addr>> {
        const STEP: u32 = 7;
        let addresses: Vec<Ipv4Addr> =
            (0..count).map(|number| Ipv4Addr::from(u32::from(first) + STEP * number)).collect();
        let commands: String = addresses.iter().map(|address| format!("addr add {address}/32 dev lo\n")).collect();
        self.server.ip_batch(&commands)?;
        let length = (STEP * count).next_power_of_two().leading_zeros() + 1;
        self.client.ip(&format!("route add {first}/{length} via {SERVER_IPV4}"))?;
        Ok(addresses)
    }

    /// Lets replies to `range` leave through the server's first cable, where clients are, even if floods of such
    /// addresses arrive through the second.
    ///
    /// # Errors
    /// Returns an error if the route cannot be set.
    pub fn lead_clients(&self, range: &str) -> Result<()> {
        self.lead(range, SERVER_INTERFACE)
    }
}

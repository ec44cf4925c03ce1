//! Queries and change notifications of interfaces, addresses and routes (rtnetlink(7)).

use std::{collections::BTreeSet, net::IpAddr};

use futures_util::{Stream, StreamExt, TryStreamExt};
use ipnet::IpNet;
use netlink_sys::AsyncSocket as _;
use rtnetlink::{
    Handle, MulticastGroup, RouteMessageBuilder, new_connection, new_multicast_connection,
    packet_core::NetlinkPayload,
    packet_route::{
        RouteNetlinkMessage,
        address::{AddressAttribute, AddressMessage},
        link::{InfoKind, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage, LinkXdp, XdpAttached},
        route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType},
    },
};

use tcpguard_common::address::Address;

use crate::{
    datapath::{AttachMode, DatapathError, Target},
    network::Network,
};

/// The routing table of the host's own addresses (RT_TABLE_LOCAL, include/uapi/linux/rtnetlink.h).
const LOCAL_TABLE: u8 = 255;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The index of the interface.
    pub index: u32,
    /// The name of the interface.
    pub name: String,
    /// Whether frames begin with an Ethernet header (link type Ethernet or loopback).
    pub is_ethernet: bool,
    /// The attached XDP program: its id, and its mode if known.
    pub xdp: Option<(u32, Option<AttachMode>)>,
    /// The MTU in bytes.
    pub mtu: u32,
    /// Whether it is one end of a veth pair.
    pub is_veth: bool,
    /// The index of the interface that it is stacked on (VLAN, macvlan).
    pub lower: Option<u32>,
    /// The index of the interface that it is a port of (bridge, bond).
    pub master: Option<u32>,
}

impl Link {
    /// Returns the interface as a target to attach to.
    pub const fn target(&self) -> Target<'_> {
        Target { name: self.name.as_str(), index: self.index, program: self.xdp }
    }
}

/// A change of an interface or an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkChange {
    /// The interface exists; it may be new or changed.
    Present(Link),
    /// The interface was removed, or moved to another namespace.
    Gone {
        /// The index of the interface.
        index: u32,
    },
    /// An address was added or removed.
    Addresses,
}

/// Queries interfaces, addresses and routes.
pub struct Links {
    handle: Handle,
    /// On a socket of its own, whose queries the kernel filters: it sends the routes of one table instead of all, of which a
    /// router has a million.
    filtered: Handle,
}

/// Receives change notifications.
pub struct LinkWatch(Box<dyn Stream<Item = LinkChange> + Send + Unpin>);

fn failed(error: impl ToString) -> DatapathError {
    DatapathError::Netlink(error.to_string())
}

/// Returns the host's own address: where there are two, as on a point-to-point interface, the other is the peer's.
fn own_address(attributes: &[AddressAttribute]) -> Option<Address> {
    let local = attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let only = attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    local.or(only).map(Address::from)
}

impl Links {
    /// Opens the netlink socket. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Returns an error if the netlink socket cannot be opened.
    pub fn open() -> Result<Self, DatapathError> {
        let (connection, handle, _) = new_connection().map_err(failed)?;
        tokio::spawn(connection);
        let (mut connection, filtered, _) = new_connection().map_err(failed)?;
        connection.socket_mut().socket_mut().set_netlink_get_strict_chk(true).map_err(failed)?;
        tokio::spawn(connection);
        Ok(Self { handle, filtered })
    }

    /// Returns all interfaces of the network namespace.
    ///
    /// # Errors
    /// Returns an error if the kernel does not answer.
    pub async fn all(&self) -> Result<Vec<Link>, DatapathError> {
        let messages: Vec<LinkMessage> = self.handle.link().get().execute().try_collect().await.map_err(failed)?;
        Ok(messages.into_iter().filter_map(link).collect())
    }

    /// Returns the interface with this name.
    ///
    /// # Errors
    /// Returns an error if the kernel does not answer.
    pub async fn find(&self, name: &str) -> Result<Option<Link>, DatapathError> {
        Ok(self.all().await?.into_iter().find(|link| link.name == name))
    }

    /// Returns the addresses of the network namespace.
    ///
    /// # Errors
    /// Returns an error if the kernel does not answer.
    pub async fn addresses(&self) -> Result<BTreeSet<Address>, DatapathError> {
        let messages: Vec<AddressMessage> =
            self.handle.address().get().execute().try_collect().await.map_err(failed)?;
        Ok(messages.iter().filter_map(|message| own_address(&message.attributes)).collect())
    }

    /// Returns the networks of which the host accepts every address: routes of type local ("AnyIP"), apart from those of
    /// single addresses and the loopback network.
    ///
    /// # Errors
    /// Returns an error if the kernel does not answer.
    pub async fn local_networks(&self) -> Result<BTreeSet<Network>, DatapathError> {
        let mut networks = BTreeSet::new();
        let ipv4 = RouteMessageBuilder::<std::net::Ipv4Addr>::new().build();
        let ipv6 = RouteMessageBuilder::<std::net::Ipv6Addr>::new().build();
        for mut query in [ipv4, ipv6] {
            query.header = RouteHeader {
                address_family: query.header.address_family,
                table: LOCAL_TABLE,
                kind: RouteType::Local,
                ..RouteHeader::default()
            };
            let routes: Vec<RouteMessage> =
                self.filtered.route().get(query).execute().try_collect().await.map_err(failed)?;
            networks.extend(routes.iter().filter_map(local_network));
        }
        Ok(networks)
    }

    /// Returns the index of the interface that packets for an address leave through; `None` if there is no route.
    pub async fn way_to(&self, address: IpAddr) -> Option<u32> {
        let query = match address {
            IpAddr::V4(address) => {
                RouteMessageBuilder::<std::net::Ipv4Addr>::new().destination_prefix(address, 32).build()
            }
            IpAddr::V6(address) => {
                RouteMessageBuilder::<std::net::Ipv6Addr>::new().destination_prefix(address, 128).build()
            }
        };
        // The kernel answers with an error where there is no route.
        let routes: Vec<RouteMessage> = self.handle.route().get(query).execute().try_collect().await.ok()?;
        routes.iter().find_map(outgoing_interface)
    }

    /// Returns the name of the interface of the default route: IPv4's if there is one, otherwise IPv6's.
    ///
    /// # Errors
    /// Returns an error if the kernel does not answer.
    pub async fn default_route_interface(&self) -> Result<Option<String>, DatapathError> {
        let ipv4 = RouteMessageBuilder::<std::net::Ipv4Addr>::new().build();
        let ipv6 = RouteMessageBuilder::<std::net::Ipv6Addr>::new().build();
        for query in [ipv4, ipv6] {
            let routes: Vec<RouteMessage> =
                self.handle.route().get(query).execute().try_collect().await.map_err(failed)?;
            let default = routes.iter().filter(|route| is_default(route)).min_by_key(|route| metric(route));
            if let Some(index) = default.and_then(outgoing_interface) {
                return Ok(self.all().await?.into_iter().find(|link| link.index == index).map(|link| link.name));
            }
        }
        Ok(None)
    }
}

/// Returns the network of a local route; `None` if it is a single address, or the loopback network.
fn local_network(route: &RouteMessage) -> Option<Network> {
    // A kernel before 4.20 does not filter.
    if route.header.table != LOCAL_TABLE || route.header.kind != RouteType::Local {
        return None;
    }
    let destination = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::from(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::from(*address)),
        _ => None,
    })?;
    let net = IpNet::new(destination, route.header.destination_prefix_length).ok()?;
    (net.prefix_len() < net.max_prefix_len() && !destination.is_loopback()).then(|| net.into())
}

impl LinkWatch {
    /// Subscribes to changes. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Returns an error if the netlink socket cannot be opened.
    pub fn start() -> Result<Self, DatapathError> {
        let (connection, _, messages) =
            new_multicast_connection(&[MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr])
                .map_err(failed)?;
        tokio::spawn(connection);
        let changes = messages.filter_map(|(message, _)| std::future::ready(change(message.payload)));
        Ok(Self(Box::new(changes)))
    }

    /// Waits for the next change. Returns `None` once the netlink connection is closed.
    pub async fn next(&mut self) -> Option<LinkChange> {
        self.0.next().await
    }
}

fn change(payload: NetlinkPayload<RouteNetlinkMessage>) -> Option<LinkChange> {
    match payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(message)) => link(message).map(LinkChange::Present),
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(message)) => {
            Some(LinkChange::Gone { index: message.header.index })
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_)) => {
            Some(LinkChange::Addresses)
        }
        _ => None,
    }
}

fn link(message: LinkMessage) -> Option<Link> {
    let mut name = None;
    let (mut xdp, mut lower, mut master) = (None, None, None);
    let (mut is_stacked, mut is_veth, mut mtu) = (false, false, 0);
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(value) => name = Some(value),
            LinkAttribute::Mtu(value) => mtu = value,
            LinkAttribute::Xdp(values) => xdp = attached_program(&values),
            LinkAttribute::Link(index) => lower = Some(index),
            LinkAttribute::Controller(index) => master = Some(index),
            LinkAttribute::LinkInfo(values) => {
                is_stacked = values.iter().any(is_stacked_kind);
                is_veth = values.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Veth)));
            }
            _ => {}
        }
    }
    // A veth reports its peer here, on which it is not stacked.
    let lower = lower.filter(|_| is_stacked);
    let is_ethernet = matches!(message.header.link_layer_type, LinkLayerType::Ether | LinkLayerType::Loopback);
    Some(Link { index: message.header.index, name: name?, is_ethernet, xdp, mtu, is_veth, lower, master })
}

fn attached_program(attributes: &[LinkXdp]) -> Option<(u32, Option<AttachMode>)> {
    let mode = attributes.iter().find_map(|attribute| match attribute {
        LinkXdp::Attached(XdpAttached::Driver) => Some(AttachMode::Native),
        LinkXdp::Attached(XdpAttached::SocketBuffer) => Some(AttachMode::Generic),
        _ => None,
    });
    attributes.iter().find_map(program_id).map(|id| (id, mode))
}

const fn program_id(attribute: &LinkXdp) -> Option<u32> {
    match attribute {
        LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id) if *id != 0 => {
            Some(*id)
        }
        _ => None,
    }
}

const fn is_stacked_kind(info: &LinkInfo) -> bool {
    matches!(info, LinkInfo::Kind(InfoKind::Vlan | InfoKind::MacVlan | InfoKind::MacVtap | InfoKind::IpVlan))
}

/// Returns whether a route is a unicast default route of the main table.
fn is_default(route: &RouteMessage) -> bool {
    route.header.destination_prefix_length == 0
        && route.header.table == RouteHeader::RT_TABLE_MAIN
        && route.header.kind == RouteType::Unicast
}

/// Returns the route's metric, of which the lowest is preferred; 0 if it has none.
fn metric(route: &RouteMessage) -> u32 {
    let metric = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    });
    metric.unwrap_or(0)
}

/// Returns the index of a route's interface, or of its first next hop's.
fn outgoing_interface(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        RouteAttribute::MultiPath(ways) => ways.first().map(|way| way.interface_index),
        _ => None,
    })
}

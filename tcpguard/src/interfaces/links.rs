//! Asking the kernel about interfaces and routes, and hearing of changes (rtnetlink(7)).

use std::collections::BTreeSet;

use futures_util::{Stream, StreamExt, TryStreamExt};
use rtnetlink::{
    Handle, MulticastGroup, RouteMessageBuilder, new_connection, new_multicast_connection,
    packet_core::NetlinkPayload,
    packet_route::{
        RouteNetlinkMessage,
        address::{AddressAttribute, AddressMessage},
        link::{InfoKind, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage, LinkXdp, XdpAttached},
        route::{RouteAttribute, RouteHeader, RouteMessage, RouteType},
    },
};

use tcpguard_common::address::Address;

use crate::datapath::{AttachMode, DatapathError, Target};

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether its frames begin with an Ethernet header.
    pub is_ethernet: bool,
    /// The XDP program that is attached to it: its id, and who runs it, where that is known.
    pub xdp: Option<(u32, Option<AttachMode>)>,
    /// Its MTU.
    pub mtu: u32,
    /// Whether it is one end of a veth pair.
    pub is_veth: bool,
    /// The interface that it is stacked on (VLAN, macvlan).
    pub lower: Option<u32>,
    /// The interface that it is a port of (bridge, bond).
    pub master: Option<u32>,
}

impl Link {
    /// What the datapath attaches to.
    pub const fn target(&self) -> Target<'_> {
        Target { name: self.name.as_str(), index: self.index, program: self.xdp }
    }
}

/// What happened to an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkChange {
    /// It is there, maybe changed.
    Present(Link),
    /// It was removed, or moved to another namespace.
    Gone {
        /// The index it had.
        index: u32,
    },
    /// An address was added, or removed.
    Addresses,
}

/// Asks about interfaces.
pub struct Links(Handle);

/// Hears of changes.
pub struct LinkWatch(Box<dyn Stream<Item = LinkChange> + Send + Unpin>);

fn failed(error: impl ToString) -> DatapathError {
    DatapathError::Netlink(error.to_string())
}

impl Links {
    /// Opens the channel, within tokio's runtime.
    ///
    /// # Errors
    /// Where the kernel gives none.
    pub fn open() -> Result<Self, DatapathError> {
        let (connection, handle, _) = new_connection().map_err(failed)?;
        tokio::spawn(connection);
        Ok(Self(handle))
    }

    /// Every interface in this network namespace.
    ///
    /// # Errors
    /// Where the kernel does not answer.
    pub async fn all(&self) -> Result<Vec<Link>, DatapathError> {
        let messages: Vec<LinkMessage> = self.0.link().get().execute().try_collect().await.map_err(failed)?;
        Ok(messages.into_iter().filter_map(link).collect())
    }

    /// The interface of this name.
    ///
    /// # Errors
    /// Where the kernel does not answer.
    pub async fn find(&self, name: &str) -> Result<Option<Link>, DatapathError> {
        Ok(self.all().await?.into_iter().find(|link| link.name == name))
    }

    /// The addresses of this network namespace.
    ///
    /// # Errors
    /// Where the kernel does not answer.
    pub async fn addresses(&self) -> Result<BTreeSet<Address>, DatapathError> {
        let messages: Vec<AddressMessage> = self.0.address().get().execute().try_collect().await.map_err(failed)?;
        let addresses =
            messages.iter().flat_map(|message| &message.attributes).filter_map(|attribute| match attribute {
                // On a point-to-point interface `Address` is the other end's.
                AddressAttribute::Local(address) | AddressAttribute::Address(address) => Some(Address::from(*address)),
                _ => None,
            });
        Ok(addresses.collect())
    }

    /// The interface of the default route, of IPv4 or else of IPv6.
    ///
    /// # Errors
    /// Where the kernel does not answer.
    pub async fn default_route_interface(&self) -> Result<Option<String>, DatapathError> {
        let ipv4 = RouteMessageBuilder::<std::net::Ipv4Addr>::new().build();
        let ipv6 = RouteMessageBuilder::<std::net::Ipv6Addr>::new().build();
        for query in [ipv4, ipv6] {
            let routes: Vec<RouteMessage> = self.0.route().get(query).execute().try_collect().await.map_err(failed)?;
            let default = routes.iter().filter(|route| is_default(route)).min_by_key(|route| metric(route));
            if let Some(index) = default.and_then(outgoing_interface) {
                return Ok(self.all().await?.into_iter().find(|link| link.index == index).map(|link| link.name));
            }
        }
        Ok(None)
    }
}

impl LinkWatch {
    /// Starts to listen, within tokio's runtime.
    ///
    /// # Errors
    /// Where the kernel does not let it.
    pub fn start() -> Result<Self, DatapathError> {
        let (connection, _, messages) =
            new_multicast_connection(&[MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr])
                .map_err(failed)?;
        tokio::spawn(connection);
        let changes = messages.filter_map(|(message, _)| std::future::ready(change(message.payload)));
        Ok(Self(Box::new(changes)))
    }

    /// The next change; `None` where the kernel closed the channel.
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
    // A veth names its peer there, which it is not stacked on.
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

/// A default route of the main table that leads somewhere.
fn is_default(route: &RouteMessage) -> bool {
    route.header.destination_prefix_length == 0
        && route.header.table == RouteHeader::RT_TABLE_MAIN
        && route.header.kind == RouteType::Unicast
}

/// Of several, the one with the least is taken; none is 0.
fn metric(route: &RouteMessage) -> u32 {
    let metric = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    });
    metric.unwrap_or(0)
}

/// The interface of a route, or of the first of its ways.
fn outgoing_interface(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        RouteAttribute::MultiPath(ways) => ways.first().map(|way| way.interface_index),
        _ => None,
    })
}

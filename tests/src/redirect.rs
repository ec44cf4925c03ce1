//! Ports of the server that are redirected to another host: by DNAT, with or without masquerade, and by IPVS. Handshakes
//! with such ports complete elsewhere.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};
use tcpguard::api::model::Stats;

use crate::{
    client::Client,
    daemon::{Daemon, port_of},
    namespace::Namespace,
    network::{CLIENT_INTERFACE, CLIENT_IPV4, Lab, SERVER_IPV4, SERVER_IPV6},
    wait::eventually,
};

/// The address of a server in a separate namespace, behind the host.
pub const BEHIND: Ipv4Addr = Ipv4Addr::new(198, 18, 100, 2);
/// Its IPv6 address.
pub const BEHIND_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x64, 0, 0, 0, 0, 2);
/// The port of the host that is redirected to the server behind it.
pub const PUBLISHED: u16 = 8080;
/// A port of the host that IPVS forwards to the server behind it.
pub const BALANCED: u16 = 8081;

/// Creates a namespace behind the host, which forwards to it.
///
/// # Errors
/// Returns an error if one of the steps fails.
pub fn host_behind(lab: &Lab) -> Result<Namespace> {
    let behind = Namespace::new()?;
    lab.server.ip(&format!("link add to-behind type veth peer name behind netns {}", behind.path()))?;
    lab.server.ip("addr add 198.18.100.1/30 dev to-behind")?;
    lab.server.ip("link set to-behind up")?;
    behind.ip(&format!("addr add {BEHIND}/30 dev behind"))?;
    behind.ip("link set behind up")?;
    behind.ip("route add default via 198.18.100.1")?;
    lab.server.ip("addr add 2001:db8:64::1/126 dev to-behind nodad")?;
    behind.ip(&format!("addr add {BEHIND_IPV6}/126 dev behind nodad"))?;
    behind.ip("route add default via 2001:db8:64::1")?;
    lab.server.sysctl("net.ipv4.ip_forward", "1")?;
    lab.server.sysctl("net.ipv6.conf.all.forwarding", "1")?;
    lab.client.ip(&format!("route add {BEHIND_IPV6}/126 via {SERVER_IPV6} dev {CLIENT_INTERFACE}"))?;
    lab.client.ip(&format!("route add 198.18.100.0/24 via {SERVER_IPV4} dev {CLIENT_INTERFACE} src {CLIENT_IPV4}"))?;
    Ok(behind)
}

/// Runs nft with `rules`.
///
/// # Errors
/// Returns an error if nft is not installed, or rejects the rules.
pub fn nft(namespace: &Namespace, rules: &str) -> Result<()> {
    namespace.run("nft", &[rules]).context("nftables (Debian package: nftables)").map(drop)
}

/// Redirects [`PUBLISHED`] to the server behind the host, as container engines do.
///
/// # Errors
/// See [`nft`].
pub fn publish(lab: &Lab) -> Result<()> {
    nft(
        &lab.server,
        &format!(
            "table ip lab {{\nchain prerouting {{\ntype nat hook prerouting priority -100;\n\
             tcp dport {PUBLISHED} dnat to {BEHIND}:80\n}}\n}}\n"
        ),
    )
}

/// Lets the server behind the host see connections as the host's own, as Kubernetes' NodePorts do.
///
/// # Errors
/// See [`nft`].
pub fn masquerade(lab: &Lab) -> Result<()> {
    nft(
        &lab.server,
        &format!(
            "table ip hide {{\nchain postrouting {{\ntype nat hook postrouting priority 100;\n\
             ip daddr {BEHIND} masquerade\n}}\n}}\n"
        ),
    )
}

/// Forwards [`BALANCED`] to the server behind the host by IPVS.
///
/// # Errors
/// Returns an error if ipvsadm is not installed, or the kernel lacks IPVS.
pub fn balance(lab: &Lab) -> Result<()> {
    let (service, server) = (format!("{SERVER_IPV4}:{BALANCED}"), format!("{BEHIND}:80"));
    lab.server.run("ipvsadm", &["-A", "-t", &service, "-s", "rr"])?;
    lab.server.run("ipvsadm", &["-a", "-t", &service, "-r", &server, "-m"]).map(drop)
}

/// Connects to a port until the daemon has found that it is redirected.
///
/// # Errors
/// Returns an error if a connection fails, or the port is not found in time.
pub fn until_found(client: &Client, daemon: &Daemon, server: SocketAddr) -> Result<()> {
    let connect = || {
        client.fetch(server).with_context(|| server.to_string())?;
        daemon.stats()
    };
    let is_found = |stats: &Stats| port_of(stats, server.port()).is_some_and(|port| port.redirected);
    eventually("the port is redirected", connect, is_found).map(drop)
}

/// Lays a cable from the server behind the host to a client's namespace, past the host, for its answers to these networks.
///
/// # Errors
/// Returns an error if a step fails.
pub fn answer_past(behind: &Namespace, client: &Namespace, networks: &[&str]) -> Result<()> {
    behind.ip(&format!("link add past type veth peer name past netns {}", client.path()))?;
    for (namespace, address) in [(behind, "198.18.101.2"), (client, "198.18.101.1")] {
        namespace.ip(&format!("addr add {address}/30 dev past"))?;
        namespace.ip("link set past up")?;
    }
    networks.iter().try_for_each(|network| behind.ip(&format!("route add {network} via 198.18.101.1")))
}

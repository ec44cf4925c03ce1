//! Ports of the server that are redirected to another host: by DNAT, with or without masquerade, and by IPVS. Handshakes
//! with such ports complete elsewhere.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, ensure};

use crate::{
    namespace::Namespace,
    network::{CLIENT_INTERFACE, CLIENT_IPV4, Lab, SERVER_IPV4, SERVER_IPV6},
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
    run(namespace, "nft", &[rules]).context("nftables (Debian package: nftables)")
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
    run(&lab.server, "ipvsadm", &["-A", "-t", &service, "-s", "rr"])?;
    run(&lab.server, "ipvsadm", &["-a", "-t", &service, "-r", &server, "-m"])
}

fn run(namespace: &Namespace, program: &str, arguments: &[&str]) -> Result<()> {
    let output = namespace.command(program).args(arguments).output();
    let output = output.with_context(|| format!("cannot run {program}"))?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

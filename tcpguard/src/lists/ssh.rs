//! Who is connected by SSH: an operator must not be locked out by what tcpguard decides.

use std::{collections::BTreeSet, fs, io, net::IpAddr};

use crate::kernel::SockDiag;

const SSH_PORT: u16 = 22;
/// Programs that SSH sessions come in by.
const SERVERS: [&str; 3] = ["sshd", "sshd-session", "dropbear"];

/// The peers of established SSH sessions, and of the one that this was started from.
///
/// # Errors
/// Where the kernel does not tell its connections.
pub fn peers() -> io::Result<BTreeSet<IpAddr>> {
    let mut sockets = SockDiag::open()?;
    let servers = server_sockets();
    let mut ports = BTreeSet::from([SSH_PORT]);
    sockets.for_each_listener_inode(|port, inode| {
        if servers.contains(&inode) {
            ports.insert(port);
        }
    })?;
    let mut peers = BTreeSet::new();
    sockets.for_each_established(|local_port, remote| {
        if ports.contains(&local_port) && !remote.is_loopback() {
            peers.insert(remote);
        }
    })?;
    peers.extend(own_peer());
    Ok(peers)
}

/// The peer of the session that this process was started in: `SSH_CONNECTION` is set by sshd.
fn own_peer() -> Option<IpAddr> {
    std::env::var("SSH_CONNECTION").ok()?.split_whitespace().next()?.parse().ok()
}

/// The sockets of SSH servers, by inode.
fn server_sockets() -> BTreeSet<u64> {
    let mut inodes = BTreeSet::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        if !SERVERS.contains(&name.trim()) {
            continue;
        }
        for descriptor in fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            let target = fs::read_link(descriptor.path()).unwrap_or_default();
            let target = target.to_string_lossy();
            let inode = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')?.parse::<u64>().ok());
            inodes.extend(inode);
        }
    }
    inodes
}

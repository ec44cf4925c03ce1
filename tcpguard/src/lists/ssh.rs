//! The peers of SSH sessions, which must not be locked out by tcpguard's decisions.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use crate::kernel::SockDiag;

const SSH_PORT: u16 = 22;
/// The names of SSH server processes.
const SERVERS: [&str; 3] = ["sshd", "sshd-session", "dropbear"];

/// Returns the peers of established SSH sessions, including the one this process was started from.
///
/// # Errors
/// Returns an error if the kernel's connections cannot be listed.
pub fn peers() -> io::Result<BTreeSet<IpAddr>> {
    let mut sockets = SockDiag::open()?;
    let servers = server_sockets();
    let mut ports = configured_ports();
    ports.insert(SSH_PORT);
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

/// Returns the ports in sshd's configuration, as far as it is readable. An unprivileged process cannot determine the
/// owner of a socket.
fn configured_ports() -> BTreeSet<u16> {
    let included = fs::read_dir("/etc/ssh/sshd_config.d").into_iter().flatten().flatten().map(|entry| entry.path());
    let files = included.chain([PathBuf::from("/etc/ssh/sshd_config")]);
    files.flat_map(|file| ports_of(&fs::read_to_string(file).unwrap_or_default())).collect()
}

/// Returns the ports of `Port` and `ListenAddress` in the text of an sshd_config(5).
fn ports_of(text: &str) -> BTreeSet<u16> {
    let port_of = |line: &str| {
        let mut words = line.split([' ', '\t', '=']).filter(|word| !word.is_empty());
        let (key, value) = (words.next()?.to_ascii_lowercase(), words.next()?);
        match key.as_str() {
            "port" => value.parse().ok(),
            "listenaddress" => value.parse::<SocketAddr>().ok().map(|address| address.port()),
            _ => None,
        }
    };
    text.lines().filter_map(port_of).collect()
}

/// Returns the peer of the SSH session this process was started in; sshd sets `SSH_CONNECTION`.
fn own_peer() -> Option<IpAddr> {
    std::env::var("SSH_CONNECTION").ok()?.split_whitespace().next()?.parse().ok()
}

/// Returns the inodes of the sockets of SSH servers.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_a_configuration() {
        let text = "# Port 1\nPort 2022\n  port=2023\nListenAddress 0.0.0.0:2024\nListenAddress [::]:2025\nListenAddress ::\nX y\n";
        assert_eq!(ports_of(text), BTreeSet::from([2022, 2023, 2024, 2025]));
    }
}

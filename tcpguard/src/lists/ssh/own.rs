//! The SSH session in which this process was started: sshd says so in the environment, or is one of its ancestors, whose
//! sockets root can see. sudo removes the variable.

use std::{collections::BTreeSet, fs, io, net::IpAddr, net::SocketAddr};

use crate::kernel::SockDiag;

/// The names of SSH server processes.
const SERVERS: [&str; 3] = ["sshd", "sshd-session", "dropbear"];
/// Processes are not nested deeper than this.
const GENERATIONS: usize = 64;

/// The connection of a session.
pub(super) struct Connection {
    local: SocketAddr,
    remote: SocketAddr,
}

impl Connection {
    pub fn peer(&self) -> IpAddr {
        self.remote.ip()
    }

    /// Returns whether the connection is still open.
    pub fn is_open(&self) -> io::Result<bool> {
        SockDiag::open()?.is_established(self.local, self.remote)
    }
}

/// Returns the connection of the session in which this process was started, if there is one.
pub(super) fn connection() -> Option<Connection> {
    let told = std::env::var("SSH_CONNECTION").ok().and_then(|variable| parse(&variable));
    told.or_else(of_ancestors)
}

/// Parses `SSH_CONNECTION` (ssh(1)): the peer's address and port, and this host's.
fn parse(variable: &str) -> Option<Connection> {
    let mut words = variable.split_whitespace();
    let mut next = || {
        let (address, port) = (words.next()?.parse::<IpAddr>().ok()?, words.next()?.parse().ok()?);
        Some(SocketAddr::new(address.to_canonical(), port))
    };
    let (remote, local) = (next()?, next()?);
    Some(Connection { local, remote })
}

fn of_ancestors() -> Option<Connection> {
    let mut process = nix::unistd::getppid().as_raw();
    for _ in 0..GENERATIONS {
        let folder = format!("/proc/{process}");
        if is_server(&folder) {
            let sockets = sockets_of(&folder);
            let mut found = None;
            let search = SockDiag::open().and_then(|mut kernel| {
                kernel.for_each_established(|connection| {
                    if sockets.contains(&connection.inode) {
                        found = Some(Connection { local: connection.local, remote: connection.remote });
                    }
                })
            });
            if search.is_ok() && found.is_some() {
                return found;
            }
        }
        process = parent(&fs::read_to_string(format!("{folder}/stat")).ok()?)?;
    }
    None
}

/// Returns the parent in the text of /proc/PID/stat; the name in it, in parentheses, may contain anything.
fn parent(stat: &str) -> Option<i32> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok().filter(|parent| *parent > 1)
}

fn is_server(folder: &str) -> bool {
    fs::read_to_string(format!("{folder}/comm")).is_ok_and(|name| SERVERS.contains(&name.trim()))
}

/// Returns the inodes of a process's sockets; none without permission.
fn sockets_of(folder: &str) -> BTreeSet<u64> {
    let descriptors = fs::read_dir(format!("{folder}/fd")).into_iter().flatten().flatten();
    let inodes = descriptors.filter_map(|descriptor| {
        let target = fs::read_link(descriptor.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    });
    inodes.collect()
}

/// Returns the inodes of the sockets of SSH servers.
pub(super) fn server_sockets() -> BTreeSet<u64> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|process| process.path());
    let folders = processes.filter_map(|path| path.to_str().map(str::to_owned));
    folders.filter(|folder| is_server(folder)).flat_map(|folder| sockets_of(&folder)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_names_both_ends() {
        let connection = parse("198.51.100.7 40122 192.0.2.1 22").expect("a connection");
        assert_eq!((connection.peer().to_string(), connection.local.port()), ("198.51.100.7".to_owned(), 22));
        assert!(parse("").is_none() && parse("198.51.100.7 40122").is_none() && parse("x 1 y 2").is_none());
    }

    #[test]
    fn sockets_are_those_of_the_process() {
        use std::os::unix::fs::MetadataExt as _;

        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let own = fs::metadata(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&socket)));
        let inode = own.expect("a descriptor").ino();
        assert!(sockets_of("/proc/self").contains(&inode));
        drop(socket);
        assert!(!sockets_of("/proc/self").contains(&inode) && sockets_of("/proc/none").is_empty());
        assert!(!is_server("/proc/self") && !server_sockets().contains(&inode));
    }

    #[test]
    fn the_parent_is_behind_the_name() {
        assert_eq!(parent("812 (a) b (c)) S 790 812 812 0"), Some(790));
        assert_eq!(parent("2 (kthreadd) S 1 0 0"), None);
        assert_eq!(parent(""), None);
    }
}

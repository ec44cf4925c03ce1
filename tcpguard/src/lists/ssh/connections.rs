//! Connections to sshd that are older than its LoginGraceTime and carried data in both directions: sshd has closed those
//! that did not log in by then.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::own;
use crate::kernel::{Established, SockDiag};

const SSH_PORT: u16 = 22;
/// sshd's default for LoginGraceTime (sshd_config(5)).
const SSHD_GRACE: Duration = Duration::from_secs(120);
/// How long dropbear waits for a login (AUTH_TIMEOUT), which has no sshd_config.
const DROPBEAR_GRACE: Duration = Duration::from_secs(300);
const DROPBEAR: &str = "usr/sbin/dropbear";
/// sshd waits up to four seconds longer, so that connections that began together do not end together.
const JITTER: Duration = Duration::from_secs(5);

/// Remembers since when each connection has been there.
#[derive(Default)]
pub(super) struct OldConnections {
    since: BTreeMap<(SocketAddr, SocketAddr), Instant>,
}

impl OldConnections {
    /// Returns the peers of connections that are old enough.
    pub fn look(&mut self, sockets: &mut SockDiag, now: Instant) -> io::Result<BTreeSet<IpAddr>> {
        let config = Config::read(Path::new("/"));
        let ports = ssh_ports(sockets, &config)?;
        let mut found = Vec::new();
        sockets.for_each_established(|connection| {
            if ports.contains(&connection.local.port()) {
                found.push(connection);
            }
        })?;
        Ok(self.note(&found, config.grace, now))
    }

    /// Notes which connections there are, and returns the peers of those that are old enough; `grace` is LoginGraceTime, or
    /// `None` if connections may stay without a login forever.
    fn note(&mut self, found: &[Established], grace: Option<Duration>, now: Instant) -> BTreeSet<IpAddr> {
        let known = std::mem::take(&mut self.since);
        let since = |connection: &Established| {
            let tuple = (connection.local, connection.remote);
            (tuple, known.get(&tuple).copied().unwrap_or(now))
        };
        self.since = found.iter().map(since).collect();
        let Some(grace) = grace else { return BTreeSet::new() };
        let is_old = |connection: &&Established| {
            let since = self.since.get(&(connection.local, connection.remote));
            since.is_some_and(|since| now.duration_since(*since) > grace) && connection.has_data_in_both_directions
        };
        found.iter().filter(is_old).map(|connection| connection.remote.ip()).collect()
    }
}

/// Returns the ports of SSH servers: 22, the configured ones, and as far as root can see, those on which one listens.
fn ssh_ports(sockets: &mut SockDiag, config: &Config) -> io::Result<BTreeSet<u16>> {
    let servers = own::server_sockets();
    let mut ports = config.ports.clone();
    ports.insert(SSH_PORT);
    sockets.for_each_listener_inode(|port, inode| {
        if servers.contains(&inode) {
            ports.insert(port);
        }
    })?;
    Ok(ports)
}

/// What sshd's configuration says, as far as it is readable.
struct Config {
    ports: BTreeSet<u16>,
    /// LoginGraceTime: the longest that some file sets; `None` if that is unlimited.
    grace: Option<Duration>,
}

impl Config {
    fn read(root: &Path) -> Self {
        let included = fs::read_dir(root.join("etc/ssh/sshd_config.d")).into_iter().flatten().flatten();
        let files: Vec<PathBuf> =
            included.map(|entry| entry.path()).chain([root.join("etc/ssh/sshd_config")]).collect();
        let texts: Vec<String> = files.iter().filter_map(|file| fs::read_to_string(file).ok()).collect();
        let graces: Vec<Option<Duration>> = texts.iter().flat_map(|text| graces_of(text)).collect();
        let has_dropbear = texts.is_empty() || root.join(DROPBEAR).exists();
        let least = if has_dropbear { DROPBEAR_GRACE } else { Duration::ZERO };
        let default = if graces.is_empty() { SSHD_GRACE } else { Duration::ZERO };
        // `None` is unlimited, although it is the smallest of its type.
        let grace = graces.iter().copied().try_fold(least.max(default), |most, grace| Some(most.max(grace?)));
        Self { ports: texts.iter().flat_map(|text| ports_of(text)).collect(), grace: grace.map(|grace| grace + JITTER) }
    }
}

/// Returns the keys, in lower case, and first values of the text of an sshd_config(5).
fn settings(text: &str) -> impl Iterator<Item = (String, &str)> {
    text.lines().filter_map(|line| {
        let mut words = line.split([' ', '\t', '=']).filter(|word| !word.is_empty());
        Some((words.next()?.to_ascii_lowercase(), words.next()?.trim_matches('"')))
    })
}

/// Returns the ports of `Port` and `ListenAddress`.
fn ports_of(text: &str) -> BTreeSet<u16> {
    let port_of = |(key, value): (String, &str)| match key.as_str() {
        "port" => value.parse().ok(),
        "listenaddress" => value.parse::<SocketAddr>().ok().map(|address| address.port()),
        _ => None,
    };
    settings(text).filter_map(port_of).collect()
}

/// Returns the values of `LoginGraceTime`; 0, and what cannot be parsed, means unlimited.
fn graces_of(text: &str) -> Vec<Option<Duration>> {
    let values = settings(text).filter(|(key, _)| key == "logingracetime");
    let parsed = values.map(|(_, value)| match value.parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => humantime_serde::re::humantime::parse_duration(&value.to_ascii_lowercase()).ok(),
    });
    parsed.map(|grace| grace.filter(|grace| !grace.is_zero())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_a_configuration() {
        let text = "# Port 1\nPort 2022\n  port=2023\nListenAddress 0.0.0.0:2024\nListenAddress [::]:2025\nListenAddress ::\nX y\n";
        assert_eq!(ports_of(text), BTreeSet::from([2022, 2023, 2024, 2025]));
    }

    #[test]
    fn the_longest_grace_counts() {
        let root = tempfile::tempdir().expect("a directory");
        let folder = root.path().join("etc/ssh/sshd_config.d");
        assert_eq!(Config::read(root.path()).grace, Some(DROPBEAR_GRACE + JITTER));
        fs::create_dir_all(&folder).expect("a directory");
        let main = root.path().join("etc/ssh/sshd_config");
        let with = |text: &str| {
            fs::write(&main, text).expect("written");
            Config::read(root.path()).grace.map(|grace| grace - JITTER)
        };
        assert_eq!(with("Port 22\n#LoginGraceTime 7\n"), Some(SSHD_GRACE));
        assert_eq!(with("LoginGraceTime 30\n"), Some(Duration::from_secs(30)));
        assert_eq!(with("logingracetime=1m30s\n"), Some(Duration::from_secs(90)));
        assert_eq!(with("LoginGraceTime 2M\n"), Some(Duration::from_secs(120)));
        fs::write(folder.join("local.conf"), "LoginGraceTime 45").expect("written");
        assert_eq!(with("LoginGraceTime 30\n"), Some(Duration::from_secs(45)));
        assert_eq!(with("LoginGraceTime 0\n"), None);
        assert_eq!(with("LoginGraceTime soon\n"), None);
        fs::create_dir_all(root.path().join("usr/sbin")).expect("a directory");
        fs::write(root.path().join(DROPBEAR), "").expect("written");
        assert_eq!(with("LoginGraceTime 30\n"), Some(DROPBEAR_GRACE));
    }

    fn connection(port: u16, has_data: bool) -> Established {
        Established {
            local: "192.0.2.1:22".parse().expect("an address"),
            remote: SocketAddr::from(([198, 51, 100, 7], port)),
            inode: 0,
            has_data_in_both_directions: has_data,
        }
    }

    #[test]
    fn a_connection_counts_once_it_is_old_and_only_while_it_lasts() {
        let mut old = OldConnections::default();
        let start = Instant::now();
        let mut peers = |found: &[Established], seconds: u64| {
            old.note(found, Some(SSHD_GRACE), start + Duration::from_secs(seconds)).len()
        };
        assert_eq!(peers(&[connection(1000, true)], 0), 0);
        assert_eq!(peers(&[connection(1000, true)], 120), 0);
        assert_eq!(peers(&[connection(1000, true)], 121), 1);
        assert_eq!(peers(&[connection(1000, false)], 122), 0, "no data");
        assert_eq!(peers(&[], 123), 0, "it ended");
        assert_eq!(peers(&[connection(1000, true)], 400), 0, "another one, from the same port");
        // Connections that follow each other do not add up.
        assert_eq!(peers(&[connection(1001, true)], 600), 0);
        assert!(old.note(&[connection(1001, true)], None, start + Duration::from_secs(9999)).is_empty());
    }
}

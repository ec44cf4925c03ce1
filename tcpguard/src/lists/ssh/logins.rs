//! The peers of sessions that systemd-logind (/run/systemd/sessions, see sd_session_get_remote_host(3)) and utmp(5) list.
//! Only root writes them, and sshd does so once somebody has logged in.

use std::{
    collections::BTreeSet,
    fs,
    mem::offset_of,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use libc::utmpx as Record;
use nix::{errno::Errno, sys::signal::kill, unistd::Pid};

/// The size of a record of utmp in bytes.
const RECORD: usize = size_of::<Record>();

/// Returns the peers of sessions, or `None` if neither logind runs nor utmp exists. `root` is the root directory.
pub(super) fn peers(root: &Path) -> Option<BTreeSet<IpAddr>> {
    match (of_logind(root), of_utmp(root)) {
        (Some(logind), Some(utmp)) => Some(&logind | &utmp),
        (logind, utmp) => logind.or(utmp),
    }
}

/// Returns the peers of logind's sessions. It has at least one seat while it runs; the directory of sessions may be left
/// over.
fn of_logind(root: &Path) -> Option<BTreeSet<IpAddr>> {
    fs::read_dir(root.join("run/systemd/seats")).ok()?.next()?.ok()?;
    let sessions = fs::read_dir(root.join("run/systemd/sessions")).ok()?;
    // A session may end while the directory is read, and pipes beside the files have no text.
    let files = sessions.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    let texts = files.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    Some(texts.filter_map(|text| peer_of_session(&text)).collect())
}

/// Returns the peer of a remote session that somebody is logged in to: one that is closing lasts only because of processes
/// that were left behind.
fn peer_of_session(text: &str) -> Option<IpAddr> {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let is_ssh = matches!(value("SERVICE")?, "sshd" | "dropbear");
    let is_open = matches!(value("STATE")?, "active" | "online");
    (is_ssh && is_open && value("REMOTE")? == "1").then_some(())?;
    value("REMOTE_HOST")?.parse::<IpAddr>().ok().map(|peer| peer.to_canonical())
}

/// Returns the peers of utmp's sessions whose process exists: nobody removes the records of processes that were killed.
fn of_utmp(root: &Path) -> Option<BTreeSet<IpAddr>> {
    let bytes = fs::read(root.join("run/utmp")).ok()?;
    let sessions = bytes.chunks_exact(RECORD).filter_map(session);
    Some(sessions.filter(|(process, _)| exists(*process)).map(|(_, peer)| peer).collect())
}

/// Returns the process and the peer of a remote login.
fn session(record: &[u8]) -> Option<(Pid, IpAddr)> {
    let word = |offset: usize| record.get(offset..)?.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes));
    let kind = record.get(offset_of!(Record, ut_type)..)?.first_chunk().map(|bytes| i16::from_ne_bytes(*bytes))?;
    let octets: &[u8; 16] = record.get(offset_of!(Record, ut_addr_v6)..)?.first_chunk()?;
    let peer = match octets {
        [0, 0, 0, 0, ..] => return None,
        [a, b, c, d, rest @ ..] if rest.iter().all(|octet| *octet == 0) => IpAddr::from(Ipv4Addr::new(*a, *b, *c, *d)),
        octets => IpAddr::from(Ipv6Addr::from(*octets)).to_canonical(),
    };
    (kind == libc::USER_PROCESS).then_some((Pid::from_raw(word(offset_of!(Record, ut_pid))?), peer))
}

fn exists(process: Pid) -> bool {
    process.as_raw() > 0 && kill(process, None) != Err(Errno::ESRCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: &str = "# This is private data. Do not parse.\nUID=1000\nUSER=ada\nACTIVE=1\nIS_DISPLAY=0\nSTATE=active\n\
                           REMOTE=1\nTYPE=tty\nCLASS=user\nREMOTE_HOST=198.51.100.7\nSERVICE=sshd\nLEADER=812\n";

    #[test]
    fn a_remote_session_that_is_open_has_a_peer() {
        let peer = |text: &str| peer_of_session(text).map(|peer| peer.to_string());
        assert_eq!(peer(SESSION).as_deref(), Some("198.51.100.7"));
        assert_eq!(peer(&SESSION.replace("198.51.100.7", "::ffff:198.51.100.7")).as_deref(), Some("198.51.100.7"));
        assert_eq!(peer(&SESSION.replace("198.51.100.7", "2001:db8::7")).as_deref(), Some("2001:db8::7"));
        for (from, to) in [
            ("STATE=active", "STATE=closing"),
            ("STATE=active", "STATE=opening"),
            ("REMOTE=1", "REMOTE=0"),
            ("SERVICE=sshd", "SERVICE=cron"),
            ("198.51.100.7", "host.example"),
            ("REMOTE_HOST=", "NO_HOST="),
        ] {
            assert_eq!(peer(&SESSION.replace(from, to)), None, "{to}");
        }
    }

    fn record(kind: i16, process: i32, octets: [u8; 16]) -> Vec<u8> {
        let mut bytes = vec![0; RECORD];
        let mut put = |offset: usize, value: &[u8]| bytes[offset..offset + value.len()].copy_from_slice(value);
        put(offset_of!(Record, ut_type), &kind.to_ne_bytes());
        put(offset_of!(Record, ut_pid), &process.to_ne_bytes());
        put(offset_of!(Record, ut_addr_v6), &octets);
        bytes
    }

    #[test]
    fn logins_of_processes_that_exist_have_a_peer() {
        let own = std::process::id() as i32;
        let ipv4 = [198, 51, 100, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let ipv6 = "2001:db8::7".parse::<Ipv6Addr>().expect("an address").octets();
        let root = tempfile::tempdir().expect("a directory");
        assert_eq!(peers(root.path()), None);
        let records = [
            record(libc::USER_PROCESS, own, ipv4),
            record(libc::USER_PROCESS, own, ipv6),
            record(libc::USER_PROCESS, own, [0; 16]),
            record(libc::DEAD_PROCESS, own, [203, 0, 113, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            record(libc::USER_PROCESS, i32::MAX, [203, 0, 113, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            record(libc::USER_PROCESS, 0, [203, 0, 113, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ];
        fs::create_dir(root.path().join("run")).expect("a directory");
        fs::write(root.path().join("run/utmp"), records.concat()).expect("written");
        let found: Vec<String> = peers(root.path()).expect("utmp").iter().map(ToString::to_string).collect();
        assert_eq!(found, ["198.51.100.7", "2001:db8::7"]);
    }

    #[test]
    fn sessions_count_only_while_logind_runs() {
        let root = tempfile::tempdir().expect("a directory");
        let folder = |name: &str| fs::create_dir_all(root.path().join("run/systemd").join(name)).expect("a directory");
        folder("sessions");
        fs::write(root.path().join("run/systemd/sessions/1"), SESSION).expect("written");
        assert_eq!(peers(root.path()), None);
        folder("seats");
        fs::write(root.path().join("run/systemd/seats/seat0"), "").expect("written");
        assert_eq!(peers(root.path()).map(|peers| peers.len()), Some(1));
        let other = [203, 0, 113, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let login = record(libc::USER_PROCESS, std::process::id() as i32, other);
        fs::write(root.path().join("run/utmp"), login).expect("written");
        assert_eq!(peers(root.path()).map(|peers| peers.len()), Some(2), "one of each");
        fs::remove_file(root.path().join("run/utmp")).expect("removed");
        fs::remove_file(root.path().join("run/systemd/sessions/1")).expect("removed");
        assert_eq!(peers(root.path()), Some(BTreeSet::new()));
    }
}

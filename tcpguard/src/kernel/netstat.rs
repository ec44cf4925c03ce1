//! The kernel's TCP counters, from `/proc/net/netstat`.

use std::io;

use serde::Serialize;

const FILE: &str = "/proc/self/net/netstat";
const SECTION: &str = "TcpExt:";
const TCP_FILE: &str = "/proc/self/net/snmp";
const COOKIES: &str = "/proc/sys/net/ipv4/tcp_syncookies";

/// A selection of the counters, counted since the network namespace was created. A counter that the
/// kernel does not have is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TcpExt {
    /// Times that the accept queue was full when a handshake completed or a SYN arrived.
    pub listen_overflows: u64,
    /// Requests refused by listeners for lack of resources, including the overflows.
    pub listen_drops: u64,
    /// SYNs dropped because the request queue was full.
    pub request_queue_full_drop: u64,
    /// SYNs answered with a cookie because the request queue was full.
    pub request_queue_full_cookies: u64,
    /// SYN cookies sent.
    pub syncookies_sent: u64,
    /// Valid SYN cookies returned by clients.
    pub syncookies_received: u64,
    /// Invalid SYN cookies received.
    pub syncookies_failed: u64,
    /// The kernel answers every SYN with a cookie (`net.ipv4.tcp_syncookies` is 2). It then counts each as one whose
    /// request queue was full.
    #[serde(skip)]
    pub sends_cookies_always: bool,
    /// Segments received with a valid authentication option (RFC 5925).
    #[serde(skip)]
    pub authenticated: u64,
    /// Resets sent.
    #[serde(skip)]
    pub resets_sent: u64,
}

impl TcpExt {
    pub(super) fn read() -> io::Result<Self> {
        let counters = Self::parse(&std::fs::read_to_string(FILE)?)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{FILE} has no {SECTION} lines")))?;
        // A kernel without cookies has no such setting.
        let setting = std::fs::read_to_string(COOKIES).unwrap_or_default();
        let resets_sent = resets_sent(&std::fs::read_to_string(TCP_FILE)?).unwrap_or_default();
        Ok(Self { sends_cookies_always: setting.trim() == "2", resets_sent, ..counters })
    }

    /// Parses the file, which has two lines per section: names, then values.
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(SECTION));
        let (names, values) = (lines.next()?, lines.next()?);
        let mut counters = Self::default();
        for (name, value) in names.split_whitespace().zip(values.split_whitespace()) {
            if let Some(counter) = counters.counter(name) {
                *counter = value.parse().ok()?;
            }
        }
        Some(counters)
    }

    fn counter(&mut self, name: &str) -> Option<&mut u64> {
        match name {
            "ListenOverflows" => Some(&mut self.listen_overflows),
            "ListenDrops" => Some(&mut self.listen_drops),
            "TCPReqQFullDrop" => Some(&mut self.request_queue_full_drop),
            "TCPReqQFullDoCookies" => Some(&mut self.request_queue_full_cookies),
            "SyncookiesSent" => Some(&mut self.syncookies_sent),
            "SyncookiesRecv" => Some(&mut self.syncookies_received),
            "TCPAOGood" => Some(&mut self.authenticated),
            "SyncookiesFailed" => Some(&mut self.syncookies_failed),
            _ => None,
        }
    }
}

/// Returns `OutRsts` of `/proc/net/snmp`, which has the same format.
fn resets_sent(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let place = names.split_whitespace().position(|name| name == "OutRsts")?;
    values.split_whitespace().nth(place)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_are_found_by_their_name() {
        let text = "Ip: Forwarding\nIp: 1\nTcp: RtoAlgorithm MaxConn OutRsts InCsumErrors\nTcp: 1 -1 77 0\n";
        assert_eq!(resets_sent(text), Some(77));
        assert_eq!(resets_sent("Tcp: Other\nTcp: 1\n"), None);
    }

    #[test]
    fn names_and_values_are_paired() {
        let text = "TcpExt: SyncookiesSent Other ListenDrops\nTcpExt: 7 8 9\nIpExt: InNoRoutes\nIpExt: 0\n";
        let counters = TcpExt::parse(text).expect("two lines");
        assert_eq!((counters.syncookies_sent, counters.listen_drops, counters.listen_overflows), (7, 9, 0));
    }

    #[test]
    fn a_file_without_the_section_is_refused() {
        assert_eq!(TcpExt::parse("IpExt: InNoRoutes\nIpExt: 0\n"), None);
        assert_eq!(TcpExt::parse("TcpExt: ListenDrops\nTcpExt: many\n"), None);
    }

    #[test]
    fn the_running_kernel_has_it() {
        TcpExt::read().expect("Linux has had these counters since 2.6");
    }
}

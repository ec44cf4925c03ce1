//! What other tools say, to compare with.

use anyhow::{Context, Result};

use crate::namespace::Namespace;

/// A row of `ss -n -o state syn-recv`: local address, remote address, and how often the SYN-ACK was sent again.
pub type SynRecv = (String, String, u8);

/// The handshakes in state SYN_RECV by `ss`, sorted.
///
/// # Errors
/// Returns an error if ss cannot be run.
pub fn syn_recv(namespace: &Namespace) -> Result<Vec<SynRecv>> {
    let output = namespace
        .command("ss")
        .args(["-H", "-t", "-n", "-o", "state", "syn-recv"])
        .output()
        .context("cannot run ss: Debian has it in the package iproute2")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut rows: Vec<SynRecv> = text.lines().filter_map(parse).collect();
    rows.sort();
    Ok(rows)
}

/// How many SYNs the TCP of this namespace has sent, by its kernel's own count: one for each connection that was begun
/// (ActiveOpens), and those that it had to send again (TCPSynRetrans).
///
/// # Errors
/// Returns an error if it does not say.
pub fn syns_sent(namespace: &Namespace) -> Result<u64> {
    Ok(counter(namespace, "snmp", "Tcp: ", "ActiveOpens")?
        + counter(namespace, "netstat", "TcpExt: ", "TCPSynRetrans")?)
}

/// One of a file of pairs of lines: names, and numbers.
fn counter(namespace: &Namespace, file: &str, group: &str, name: &str) -> Result<u64> {
    let path = format!("/proc/thread-self/net/{file}");
    let text = namespace.within(|| std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}")))?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(group));
    let (names, numbers) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let count = names.split(' ').zip(numbers.split(' ')).find(|(found, _)| *found == name);
    count.and_then(|(_, number)| number.parse().ok()).with_context(|| format!("{path} has no {name}"))
}

/// `0 0 198.18.0.1:80 198.18.0.9:4000 timer:(on,900ms,0)`
fn parse(line: &str) -> Option<SynRecv> {
    let mut fields = line.split_whitespace().skip(2);
    let (local, remote) = (fields.next()?.to_owned(), fields.next()?.to_owned());
    let timer = fields.next().and_then(|timer| timer.strip_suffix(')')?.rsplit(',').next()?.parse().ok());
    Some((plain(&local), plain(&remote), timer.unwrap_or(0)))
}

/// ss shows IPv4 peers of dual-stack sockets as `[::ffff:198.18.0.9]:4000`, tcpguard as what they are.
fn plain(address: &str) -> String {
    address.strip_prefix("[::ffff:").map_or_else(|| address.to_owned(), |rest| rest.replacen(']', "", 1))
}

//! Values from other tools and from the kernel, to compare tcpguard's with.

use anyhow::{Context, Result};

use crate::namespace::Namespace;

/// A row of `ss -n -o state syn-recv`: local address, remote address, and number of SYN-ACK retransmits.
pub type SynRecv = (String, String, u8);

/// Returns the handshakes in state `SYN_RECV` according to `ss`, sorted.
///
/// # Errors
/// Returns an error if ss cannot be run.
pub fn syn_recv(namespace: &Namespace) -> Result<Vec<SynRecv>> {
    let output = namespace
        .command("ss")
        .args(["-H", "-t", "-n", "-o", "state", "syn-recv"])
        .output()
        .context("cannot run ss (Debian package: iproute2)")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut rows: Vec<SynRecv> = text.lines().filter_map(parse).collect();
    rows.sort();
    Ok(rows)
}

/// Returns the number of SYNs that this namespace has sent, according to the kernel: one for each connection opened
/// (`ActiveOpens`) plus the retransmits (`TCPSynRetrans`).
///
/// # Errors
/// Returns an error if the counters cannot be read.
pub fn syns_sent(namespace: &Namespace) -> Result<u64> {
    Ok(tcp(namespace, "ActiveOpens")? + tcp_ext(namespace, "TCPSynRetrans")?)
}

/// Returns one of the kernel's extended TCP counters (`TcpExt` in /proc/net/netstat).
///
/// # Errors
/// Returns an error if the kernel has no such counter.
pub fn tcp_ext(namespace: &Namespace, name: &str) -> Result<u64> {
    counter(namespace, "netstat", "TcpExt: ", name)
}

/// Returns one of the kernel's TCP counters (`Tcp` in /proc/net/snmp).
///
/// # Errors
/// Returns an error if the kernel has no such counter.
pub fn tcp(namespace: &Namespace, name: &str) -> Result<u64> {
    counter(namespace, "snmp", "Tcp: ", name)
}

/// Reads a counter from a file of pairs of lines, names followed by numbers.
fn counter(namespace: &Namespace, file: &str, group: &str, name: &str) -> Result<u64> {
    let path = format!("/proc/thread-self/net/{file}");
    let text = namespace.within(|| std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}")))?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(group));
    let (names, numbers) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let count = names.split(' ').zip(numbers.split(' ')).find(|(found, _)| *found == name);
    count.and_then(|(_, number)| number.parse().ok()).with_context(|| format!("{path} has no {name}"))
}

/// Parses a line such as `0 0 198.18.0.1:80 198.18.0.9:4000 timer:(on,900ms,0)`.
fn parse(line: &str) -> Option<SynRecv> {
    let mut fields = line.split_whitespace().skip(2);
    let (local, remote) = (fields.next()?.to_owned(), fields.next()?.to_owned());
    let timer = fields.next().and_then(|timer| timer.strip_suffix(')')?.rsplit(',').next()?.parse().ok());
    Some((plain(&local), plain(&remote), timer.unwrap_or(0)))
}

/// Converts IPv4 peers of dual-stack sockets, which `ss` shows as `[::ffff:198.18.0.9]:4000`, to IPv4 addresses.
fn plain(address: &str) -> String {
    address.strip_prefix("[::ffff:").map_or_else(|| address.to_owned(), |rest| rest.replacen(']', "", 1))
}

/// Returns the seconds that all CPUs have spent in softirq since boot. Its resolution is one clock tick.
///
/// # Errors
/// Returns an error if /proc/stat cannot be read.
pub fn softirq_seconds() -> Result<f64> {
    cpu_seconds(7)
}

/// Returns the seconds for which CPUs of this machine have been ready to run and were not, because the host of a virtual
/// machine gave the time to others. Its resolution is one clock tick.
///
/// # Errors
/// Returns an error if /proc/stat cannot be read.
pub fn stolen_seconds() -> Result<f64> {
    cpu_seconds(8)
}

/// Returns a field of the first line of /proc/stat (proc_stat(5)), which is the sum of all CPUs, in seconds.
fn cpu_seconds(field: usize) -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let ticks = stat.lines().next().and_then(|line| line.split_whitespace().nth(field)?.parse::<f64>().ok());
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    Ok(ticks.with_context(|| format!("/proc/stat has no field {field}"))? / per_second as f64)
}

/// Returns the CPU time of this process and of the kernel's softirq threads since their start, in seconds. Frames sent by
/// this process into a veth pair are received either in the softirq that ends its system call, or in those threads: this is
/// the cost of sending and receiving them. Unlike [`softirq_seconds`] it is measured, not sampled at clock ticks, which
/// a generator that sends at fixed intervals can coincide with or miss.
///
/// # Errors
/// Returns an error if the clock or /proc cannot be read.
pub fn send_and_receive_seconds() -> Result<f64> {
    let own = nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID)?;
    let mut nanoseconds = own.tv_sec() as f64 * 1e9 + own.tv_nsec() as f64;
    for entry in std::fs::read_dir("/proc").context("cannot read /proc")? {
        let process = entry?.path();
        // A process can end while the directory is read.
        let Ok(name) = std::fs::read_to_string(process.join("comm")) else { continue };
        if name.starts_with("ksoftirqd/") {
            let schedule = std::fs::read_to_string(process.join("schedstat"))?;
            let run_time = schedule.split_whitespace().next().and_then(|field| field.parse::<f64>().ok());
            nanoseconds += run_time.context("no run time in schedstat")?;
        }
    }
    Ok(nanoseconds / 1e9)
}

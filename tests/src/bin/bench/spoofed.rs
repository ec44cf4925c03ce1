//! The cost of a flood from random sources and the effect on a client: tcpguard compared with the kernel's own cookies
//! and nftables' SYNPROXY.

use std::{
    net::SocketAddr,
    panic::resume_unwind,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::Result;
use lab::{
    Client, Connections, Flood, FloodSpec, Lab, Sources,
    network::{SECOND_CLIENT_INTERFACE, SERVER_IPV6},
    oracle,
    redirect::nft,
    scene::WEB,
    server::Nginx,
};

use super::{
    Effort,
    defence::{Defence, dropping, guard, reflecting},
};

const CLIENT_RATE: u32 = 100;
pub const SLOW: u32 = 100_000;
pub const FAST: u32 = 400_000;

struct Run {
    /// The client's results before the flood.
    quiet: Connections,
    /// The client's results during the flood.
    client: Connections,
    /// CPU seconds for sending and receiving a million SYNs, with the client beside them.
    cpu: f64,
}

pub fn compare(effort: &Effort) -> Result<()> {
    println!("\nA flood from random sources, and a client with {CLIENT_RATE} connections per second");
    println!(
        "{:<36} {:>16} {:>14} {:>16} {:>12}",
        "", "CPU s/M SYNs", "client served", "connect p99, ms", "without, ms"
    );
    let web_ipv6 = SocketAddr::from((SERVER_IPV6, WEB.port()));
    let (ipv4, ipv6) = (Sources::RANDOM_IPV4, Sources::RANDOM_IPV6);
    let none = measure(effort, "all dropped at once, 100 kpps", dropping, ipv4, SLOW, WEB)?.cpu;
    let answered = measure(effort, "all answered at once, 100 kpps", reflecting, ipv4, SLOW, WEB)?.cpu;
    let kernel = measure(effort, "the kernel's cookies, 100 kpps", kernel, ipv4, SLOW, WEB)?;
    let proxy = measure(effort, "nftables SYNPROXY, 100 kpps", synproxy, ipv4, SLOW, WEB)?;
    let ours = measure(effort, "tcpguard, 100 kpps", guard, ipv4, SLOW, WEB)?;
    measure(effort, "tcpguard, 100 kpps, IPv6", guard, ipv6, SLOW, web_ipv6)?;
    measure(effort, "all dropped at once, 400 kpps", dropping, ipv4, FAST, WEB)?;
    measure(effort, "tcpguard, 400 kpps", guard, ipv4, FAST, WEB)?;
    measure(effort, "tcpguard, 400 kpps, IPv6", guard, ipv6, FAST, web_ipv6)?;
    println!(
        "without what sending costs, tcpguard's CPU time is {:.2} times the kernel's and {:.2} times SYNPROXY's (limit 0.12); \
         any answer by XDP takes {:.2} and {:.2}",
        (ours.cpu - none) / (kernel.cpu - none),
        (ours.cpu - none) / (proxy.cpu - none),
        (answered - none) / (kernel.cpu - none),
        (answered - none) / (proxy.cpu - none)
    );
    let p99 = |connections: &Connections| connections.quantile(0.99).as_secs_f64();
    println!(
        "the client's p99 with tcpguard is {:.2} times that without a flood (limit 2.00)",
        p99(&ours.client) / p99(&ours.quiet)
    );
    Ok(())
}

fn measure(
    effort: &Effort,
    name: &str,
    defend: impl Fn(&Lab) -> Result<Defence>,
    sources: Sources,
    rate: u32,
    server: SocketAddr,
) -> Result<Run> {
    let lab = Lab::new()?;
    lab.lay_second_cable()?;
    let _nginx = Nginx::start(&lab, &[WEB.port()])?;
    let _defence = defend(&lab)?;
    let quiet = Client::new(&lab).run(server, CLIENT_RATE, effort.flood / 4, || true)?;
    let mut flood =
        Flood::from_interface(&lab.client, SECOND_CLIENT_INTERFACE, &FloodSpec::syn(sources, server.port()))?;
    let is_over = AtomicBool::new(false);
    let run = thread::scope(|scope| {
        let client = scope.spawn(|| {
            let goes_on = || !is_over.load(Ordering::Relaxed);
            Client::new(&lab).run(server, CLIENT_RATE, effort.flood * 2, goes_on)
        });
        // The client's results include the first second, in which the attack is detected; the CPU time does not.
        let result = flood.send_at(rate, Duration::from_secs(1)).and_then(|_| {
            let before = oracle::send_and_receive_seconds()?;
            let sent = flood.send_at(rate, effort.flood)?;
            Ok((oracle::send_and_receive_seconds()? - before) / (sent as f64 / 1e6))
        });
        is_over.store(true, Ordering::Relaxed);
        let client = client.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        anyhow::Ok(Run { quiet, client, cpu: result? })
    })?;
    let milliseconds = |connections: &Connections| connections.quantile(0.99).as_secs_f64() * 1000.0;
    println!(
        "{name:<36} {:>16.3} {:>12.2} % {:>16.2} {:>12.2}",
        run.cpu,
        run.client.share() * 100.0,
        milliseconds(&run.client),
        milliseconds(&run.quiet)
    );
    Ok(run)
}

/// The unmodified kernel, which answers with cookies when a backlog is full.
fn kernel(lab: &Lab) -> Result<Defence> {
    lab.receive_without_daemon()?;
    Ok(Box::new(()))
}

fn synproxy(lab: &Lab) -> Result<Defence> {
    lab.receive_without_daemon()?;
    let rules = "table ip lab {\n\
        chain raw {\ntype filter hook prerouting priority raw;\ntcp dport 80 tcp flags syn notrack\n}\n\
        chain input {\ntype filter hook input priority filter;\n\
        tcp dport 80 ct state invalid,untracked synproxy mss 1460 wscale 7 timestamp sack-perm\n\
        ct state invalid drop\n}\n}\n";
    nft(&lab.server, rules)?;
    lab.server.sysctl("net.netfilter.nf_conntrack_tcp_loose", "0")?;
    Ok(Box::new(()))
}

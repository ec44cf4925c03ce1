//! The cost of a flood from random sources for a gateway, and the effect on clients of the servers behind it: tcpguard compared
//! with nftables' SYNPROXY, on the same gateway.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    panic::resume_unwind,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use lab::{
    Client, Connections, Flood, FloodSpec, Lab, Namespace, Setup, Sources,
    network::{CLIENT_INTERFACE, SECOND_CLIENT_INTERFACE, SECOND_SERVER_INTERFACE, SERVER_INTERFACE, SERVER_IPV4},
    oracle,
    redirect::{BEHIND, host_behind, nft},
    server,
    wait::{GoesOn, beside},
};

use super::{
    Effort,
    defence::{Defence, dropping},
    spoofed::{FAST, SLOW},
};

const CLIENT_RATE: u32 = 100;
/// The address of the second server.
const SECOND: Ipv4Addr = Ipv4Addr::new(198, 18, 103, 2);

struct Run {
    /// CPU seconds for sending and receiving a million SYNs, with the clients beside them.
    cpu: f64,
    clients: Connections,
    /// Segments that the servers received, beyond those of clients in calm.
    received: f64,
    /// Entries of connection tracking at the end of the flood.
    tracked: u64,
}

pub fn compare(effort: &Effort) -> Result<()> {
    println!("\nA gateway: SYNs from random sources to two servers, and {CLIENT_RATE} connections per second to each");
    println!(
        "{:<36} {:>16} {:>14} {:>12} {:>20} {:>10}",
        "", "CPU s/M SYNs", "client served", "p99, ms", "segments/connection", "conntrack"
    );
    for rate in [SLOW, FAST] {
        let none = measure(effort, "all dropped at once", rate, dropping)?.cpu;
        let proxy = measure(effort, "nftables SYNPROXY", rate, synproxy)?.cpu - none;
        let ours = measure(effort, "tcpguard, safe reset", rate, guard)?.cpu - none;
        let ratio = ours / proxy;
        println!(
            "at {rate} per second and without what sending costs, tcpguard's CPU time is {ratio:.2} times SYNPROXY's (limit 0.15)"
        );
    }
    Ok(())
}

fn measure(effort: &Effort, name: &str, rate: u32, defend: impl Fn(&Lab) -> Result<Defence>) -> Result<Run> {
    let lab = Lab::new()?;
    lab.lay_second_cable()?;
    let behind = host_behind(&lab)?;
    behind.ip("link set lo up")?;
    behind.ip(&format!("addr add {SECOND}/32 dev lo"))?;
    lab.server.ip(&format!("route add {SECOND}/32 via {BEHIND}"))?;
    lab.client.ip(&format!("route add {SECOND}/32 via {SERVER_IPV4} dev {CLIENT_INTERFACE}"))?;
    let _service = server::echo(&behind, "0.0.0.0:80", 2)?;
    // Connection tracking follows what is forwarded.
    nft(
        &lab.server,
        "table ip track {\nchain forward {\ntype filter hook forward priority 10;\nct state new counter\n}\n}\n",
    )?;
    let _defence = defend(&lab)?;
    let mut floods = [IpAddr::from(BEHIND), SECOND.into()]
        .map(|server| {
            let spec = FloodSpec::syn(Sources::RANDOM_IPV4, 80).to(server);
            Flood::from_interface(&lab.client, SECOND_CLIENT_INTERFACE, &spec)
        })
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let clients = |goes_on: GoesOn| connect(&lab, effort.flood * 2, goes_on);
    let ((cpu, received), clients) = beside(clients, || {
        // The first second, in which the attack is detected, is not measured.
        send(&mut floods, rate, Duration::from_secs(1))?;
        let before = (oracle::send_and_receive_seconds()?, oracle::tcp(&behind, "InSegs")?);
        let sent = send(&mut floods, rate, effort.flood)?;
        let cpu = (oracle::send_and_receive_seconds()? - before.0) / (sent as f64 / 1e6);
        Ok((cpu, oracle::tcp(&behind, "InSegs")? - before.1))
    })?;
    let during = f64::from(clients.served()) * effort.flood.as_secs_f64() / (effort.flood.as_secs_f64() + 1.0);
    let name = format!("{name}, {rate} per second");
    let run = Run { cpu, received: received as f64 / during, tracked: tracked(&lab.server)?, clients };
    println!(
        "{name:<36} {:>16.3} {:>12.2} % {:>12.2} {:>20.1} {:>10}",
        run.cpu,
        run.clients.share() * 100.0,
        run.clients.quantile(0.99).as_secs_f64() * 1000.0,
        run.received,
        run.tracked
    );
    Ok(run)
}

/// Sends the floods in turn, in short slices, and returns the number of frames that arrived.
fn send(floods: &mut [Flood], rate: u32, duration: Duration) -> Result<u64> {
    const SLICE: Duration = Duration::from_millis(250);
    let slices = duration.div_duration_f64(SLICE).round() as usize;
    let mut sent = 0;
    for slice in 0..slices {
        let place = slice % floods.len();
        sent += floods[place].send_at(rate, SLICE)?;
    }
    Ok(sent)
}

/// Connects to both servers, and returns the results of both clients.
fn connect(lab: &Lab, duration: Duration, goes_on: GoesOn) -> Result<Connections> {
    let mut all = Connections::default();
    let results: Vec<_> = thread::scope(|scope| {
        let clients = [BEHIND, SECOND].map(|server| {
            scope.spawn(move || Client::new(lab).run(SocketAddr::from((server, 80)), CLIENT_RATE, duration, goes_on))
        });
        clients.into_iter().map(|client| client.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    });
    for result in results {
        let connections: Connections = result?;
        all.tried += connections.tried;
        all.connect_times.extend(connections.connect_times);
        all.troubles.extend(connections.troubles);
    }
    all.connect_times.sort_unstable();
    Ok(all)
}

fn tracked(gateway: &Namespace) -> Result<u64> {
    let count = gateway.setting("net.netfilter.nf_conntrack_count")?;
    count.parse().with_context(|| format!("nf_conntrack_count is {count:?}"))
}

fn guard(lab: &Lab) -> Result<Defence> {
    let config = format!(
        "interfaces = [\"{SERVER_INTERFACE}\", \"{SECOND_SERVER_INTERFACE}\"]\n\
         [[protect]]\nname = \"shop\"\nnetworks = [\"{BEHIND}\", \"{SECOND}\"]\nports = [80]\n"
    );
    Ok(Box::new(Setup::new(lab)?.config(&config).start()?))
}

fn synproxy(lab: &Lab) -> Result<Defence> {
    lab.receive_without_daemon()?;
    nft(
        &lab.server,
        "table ip lab {\n\
         chain raw {\ntype filter hook prerouting priority raw;\ntcp dport 80 tcp flags syn notrack\n}\n\
         chain forward {\ntype filter hook forward priority filter;\n\
         tcp dport 80 ct state invalid,untracked synproxy mss 1460 wscale 7 timestamp sack-perm\n\
         ct state invalid drop\n}\n}\n",
    )?;
    lab.server.sysctl("net.netfilter.nf_conntrack_tcp_loose", "0")?;
    ensure!(lab.server.setting("net.ipv4.tcp_timestamps")? != "0", "SYNPROXY needs timestamps");
    Ok(Box::new(()))
}

//! The cost of stopping a flood from one source and the effect on a client: tcpguard, which has to detect the source,
//! compared with xdp-filter, which is configured with it.

use std::{
    net::{IpAddr, Ipv4Addr},
    panic::resume_unwind,
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use lab::{
    Client, Connections, Flood, FloodSpec, Lab, Setup, Sources, eventually,
    network::{SECOND_CLIENT_INTERFACE, SECOND_SERVER_INTERFACE, SERVER_INTERFACE},
    oracle,
    process::KilledOnDrop,
    reply_path::ReplyPath,
    scene::WEB,
    server::Nginx,
};

use super::Effort;

const RATE: u32 = 400_000;
/// A rate higher than one CPU can send.
const FULL_SPEED: u32 = 20_000_000;
const SOURCE: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 1);
const CLIENT_RATE: u32 = 100;

/// The results of one run.
struct Run {
    /// CPU seconds for sending and receiving a million SYNs, with the client beside them.
    cpu: f64,
    /// Likewise without the client, with frames sent as fast as one CPU can.
    cpu_at_full_speed: f64,
    client: Connections,
}

pub fn compare(effort: &Effort) -> Result<()> {
    println!(
        "\nA flood of {RATE} SYNs per second from one source, and a client with {CLIENT_RATE} connections per second"
    );
    println!("{:<36} {:>16} {:>14} {:>16}", "", "CPU s/M SYNs", "client served", "connect p99, ms");
    let (mut cpu, mut at_full_speed) = (Vec::new(), Vec::new());
    let defences = [
        ("all dropped at once", dropping as Defend),
        ("xdp-filter, configured source", filter),
        ("tcpguard, detected source", guard),
    ];
    for (name, defend) in defences {
        let run = measure(effort, defend)?;
        let p99 = run.client.quantile(0.99).as_secs_f64() * 1000.0;
        println!("{name:<36} {:>16.3} {:>12.1} % {p99:>16.2}", run.cpu, run.client.share() * 100.0);
        cpu.push(run.cpu);
        at_full_speed.push(run.cpu_at_full_speed);
    }
    let ratio = |cpu: &[f64]| (cpu[2] - cpu[0]) / (cpu[1] - cpu[0]);
    println!(
        "without what sending costs, tcpguard's CPU time is {:.2} of xdp-filter's (limit 0.80); at full speed {:.2}: {:.3} and {:.3} s/M SYNs",
        ratio(&cpu),
        ratio(&at_full_speed),
        at_full_speed[2] - at_full_speed[0],
        at_full_speed[1] - at_full_speed[0]
    );
    Ok(())
}

/// A defence against a flood, active until it is dropped.
pub type Defence = Box<dyn Send>;
type Defend = fn(&Lab) -> Result<Defence>;

fn measure(effort: &Effort, defend: Defend) -> Result<Run> {
    let lab = Lab::new()?;
    lab.lay_second_cable()?;
    let _nginx = Nginx::start(&lab, &[80])?;
    let _defence = defend(&lab)?;
    let spec = FloodSpec::syn(Sources::InTurn(IpAddr::V4(SOURCE), 1), 80);
    let mut flood = Flood::from_interface(&lab.client, SECOND_CLIENT_INTERFACE, &spec)?;
    // The first second, in which the attack is detected, is not measured.
    flood.send_at(RATE, Duration::from_secs(1))?;
    let before = oracle::send_and_receive_seconds()?;
    let sent = flood.send_at(FULL_SPEED, effort.flood / 4)?;
    let cpu_at_full_speed = (oracle::send_and_receive_seconds()? - before) / (sent as f64 / 1e6);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            let goes_on = || !is_over.load(Ordering::Relaxed);
            Client::new(&lab).run(WEB, CLIENT_RATE, effort.flood * 2, goes_on)
        });
        let before = oracle::send_and_receive_seconds()?;
        let sent = flood.send_at(RATE, effort.flood);
        let cpu = oracle::send_and_receive_seconds()? - before;
        is_over.store(true, Ordering::Relaxed);
        let client = client.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        Ok(Run { cpu: cpu / (sent? as f64 / 1e6), cpu_at_full_speed, client })
    })
}

pub fn guard(lab: &Lab) -> Result<Defence> {
    let config = format!("interfaces = [\"{SERVER_INTERFACE}\", \"{SECOND_SERVER_INTERFACE}\"]");
    Ok(Box::new(Setup::new(lab)?.config(&config).start()?))
}

/// No defence: the flood is dropped at once where it arrives, so that only sending it costs anything.
pub fn dropping(lab: &Lab) -> Result<Defence> {
    Ok(Box::new(lab.server.within(|| ReplyPath::attach_program(SECOND_SERVER_INTERFACE, "drop_all"))?))
}

/// No defence: every IPv4 packet of the flood is sent back at once.
pub fn reflecting(lab: &Lab) -> Result<Defence> {
    Ok(Box::new(lab.server.within(|| ReplyPath::attach_program(SECOND_SERVER_INTERFACE, "reflect"))?))
}

fn filter(lab: &Lab) -> Result<Defence> {
    // Pins need a BPF file system; with a separate mount namespace they are removed with the shell.
    let script = format!(
        "mount -t bpf bpf /sys/fs/bpf && xdp-filter load {SERVER_INTERFACE} && \
         xdp-filter load {SECOND_SERVER_INTERFACE} && xdp-filter ip {SOURCE} -m src && xdp-filter status && exec sleep 1000"
    );
    // The shell runs xdp-filter, and its mount namespace keeps the pins.
    let mut shell = lab.server.command("unshare");
    shell.args(["--mount", "sh", "-c", &script]).stdout(Stdio::null()).stderr(Stdio::inherit());
    let shell = KilledOnDrop(shell.spawn().context("cannot run unshare")?);
    let is_attached = || {
        let output = lab.server.command("ip").args(["link", "show", SECOND_SERVER_INTERFACE]).output();
        Ok(String::from_utf8_lossy(&output.context("cannot run ip")?.stdout).contains("prog/xdp"))
    };
    eventually("xdp-filter is attached (Debian package: xdp-tools)", is_attached, |attached| *attached)?;
    Ok(Box::new(shell))
}

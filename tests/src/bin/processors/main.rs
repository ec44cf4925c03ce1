//! `cargo xtask test processors`: the daemon on a machine with several processors, two network interfaces and several
//! queues for each, among which they spread connections (RSS). The machine is emulated; the other end of its cables is in a
//! namespace of this host.

mod cost;
mod guarded;
mod guest;

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, ensure};
use lab::{
    Stats,
    addresses::{DISCARD_PORT, SERVER_IPV4},
    frame::Frame,
    machine::{Kernel, Processors},
    share_machine,
    wire::{completion, linux_syn},
};
use xtask::bpf::toolchain::target_folder;

use guarded::Guarded;
use guest::WEB_PORT;

const SERIES: &str = "6.12";
const PROCESSORS: Processors = Processors { online: 4, possible: 4, queues: 4 };
/// `source.max_half_open`, by default.
const MAX_OF_ONE_SOURCE: u16 = 64;
/// A source whose SYNs are spread over all queues.
const SPREAD: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 8, 1));
/// The first of the sources that complete handshakes.
const CLIENTS: Ipv4Addr = Ipv4Addr::new(198, 18, 24, 0);
/// The first of the sources that do not.
const SILENT: Ipv4Addr = Ipv4Addr::new(198, 18, 16, 0);
const UNCHALLENGED: &str = "[challenge]\nmode = \"never\"";

fn main() -> Result<()> {
    let argument = std::env::args().nth(1);
    if argument.as_deref() == Some("--guest") {
        return guest::run();
    }
    // Nothing here measures times, and the machine takes what others leave of the processors.
    share_machine();
    let kernel = Kernel::fetch(SERIES, &target_folder().join("kernels"))?;
    if argument.as_deref() == Some("--cost") {
        return cost::print(&kernel);
    }
    let machine = Guarded::boot(&kernel, PROCESSORS)?;
    println!("{}: {PROCESSORS:?}", kernel.name);
    every_syn_is_counted(&machine)?;
    a_spread_source_is_found_at_the_threshold(&machine)?;
    cookies_are_accepted_wherever_they_arrive(&machine)?;
    drop(machine);
    cost::fits(&kernel)?;
    println!("4 passed, 0 failed");
    Ok(())
}

/// Addresses that send one SYN each.
fn sources_from(first: Ipv4Addr, count: u32) -> impl Iterator<Item = (IpAddr, u16)> {
    (0..count)
        .map(move |number| (Ipv4Addr::from(u32::from(first) + number).into(), 1024 + (37 * number % 60_000) as u16))
}

/// Connections of one address: their ports have an interface spread them over all its queues.
fn ports_of(source: IpAddr, ports: std::ops::Range<u16>) -> impl Iterator<Item = (IpAddr, u16)> {
    ports.map(move |number| (source, 20_000 + 97 * number))
}

fn syn_of(stats: &Stats, port: u16) -> u64 {
    stats.ports.iter().find(|row| row.port == port).map_or(0, |row| row.syn)
}

fn every_syn_is_counted(machine: &Guarded) -> Result<()> {
    machine.guard(UNCHALLENGED)?;
    let stats = machine.stats()?;
    ensure!(stats.interfaces.len() == 2, "{:?}", stats.interfaces);
    ensure!(stats.interfaces.iter().all(|interface| interface.xdp_mode == "native"), "{:?}", stats.interfaces);
    let before = machine.interrupts()?;
    ensure!(before.len() == 2 * PROCESSORS.queues as usize, "{before:?}");
    machine.send(sources_from(SILENT, 400), DISCARD_PORT)?;
    machine.stats_when("400 handshakes are half open", |stats| {
        syn_of(stats, DISCARD_PORT) == 400 && stats.half_open.datapath == 400
    })?;
    let after = machine.interrupts()?;
    let used = before.iter().zip(&after).all(|(before, after)| after.1 > before.1 + 5);
    ensure!(used, "a queue received nothing: {before:?}, {after:?}");
    println!("400 SYNs counted; interrupts of each queue: {after:?}");
    Ok(())
}

fn a_spread_source_is_found_at_the_threshold(machine: &Guarded) -> Result<()> {
    machine.guard(UNCHALLENGED)?;
    machine.send(ports_of(SPREAD, 0..MAX_OF_ONE_SOURCE), DISCARD_PORT)?;
    machine.send(sources_from(SILENT, 500), DISCARD_PORT)?;
    let stats = machine.stats_when("the state is attack", |stats| stats.state == "attack")?;
    let ticks = stats.cost.ticks;
    let stats = machine.stats_when("ten ticks have passed", |stats| stats.cost.ticks > ticks + 10)?;
    ensure!(stats.measures.blocks == 0, "blocked at the threshold: {:?}", stats.measures);
    machine.send(ports_of(SPREAD, MAX_OF_ONE_SOURCE..MAX_OF_ONE_SOURCE + 1), DISCARD_PORT)?;
    machine.stats_when("the source is blocked", |stats| stats.measures.blocks == 1)?;
    println!(
        "a source spread over all queues: not blocked with {MAX_OF_ONE_SOURCE} half-open handshakes, blocked with one more"
    );
    Ok(())
}

fn cookies_are_accepted_wherever_they_arrive(machine: &Guarded) -> Result<()> {
    machine.guard("[challenge]\nmode = \"always\"")?;
    machine
        .stats_when("the port is challenged", |stats| lab::daemon::challenge_of(stats, WEB_PORT) == Some("cookie"))?;
    let client = machine.client();
    for _ in 0..20 {
        client.fetch((SERVER_IPV4, WEB_PORT).into()).context("a client of the challenged port")?;
    }
    let completed = |stats: &Stats| stats.ports.iter().find(|row| row.port == WEB_PORT).map_or(0, |row| row.completed);
    let before = completed(&machine.stats()?);
    // The answer leaves on the cable on which the SYN arrived; the ACK returns on the other, to another processor.
    for (source, source_port) in sources_from(CLIENTS, 32) {
        let syn = Frame { source_port, ..linux_syn(source, SERVER_IPV4.into(), WEB_PORT) };
        let answer = machine.wires[0].ask(&syn).with_context(|| format!("the SYN from port {source_port}"))?;
        machine.wires[1].send(&completion(&syn, &answer))?;
    }
    let stats = machine.stats_when("all cookies are accepted", |stats| completed(stats) >= before + 32)?;
    let challenge = &stats.measures.challenge;
    ensure!(challenge.failed == 0, "{challenge:?}");
    ensure!(challenge.cookies_returned >= 16, "half were to be cookies: {challenge:?}");
    println!("cookies returned on the other interface: {} accepted", challenge.cookies_returned);
    Ok(())
}

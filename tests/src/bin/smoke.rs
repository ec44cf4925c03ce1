//! Smoke test of the whole path: load, attach, count, detach. It also runs in the virtual machines of `kernels`, where
//! only the kernel is that of a real machine.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aya::programs::loaded_programs;
use lab::{
    Client, Flood, FloodSpec, Lab, Namespace, Setup, Sources, Stats,
    daemon::{challenge_of, port_of},
    network::{CLIENT_INTERFACE, SERVER_INTERFACE, SERVER_IPV4, SERVER_IPV6},
    redirect::{BALANCED, BEHIND, PUBLISHED, balance, host_behind, masquerade, publish, until_found},
    server::{Echo, echo, listen},
};
use nix::sys::signal::Signal;

/// A value of `thresholds.max_half_open`, and more connections than it permits half-open handshakes: few, since an emulated
/// processor makes each of them.
const MAX_HALF_OPEN: u32 = 100;
const MORE_THAN_THE_THRESHOLD: u32 = 150;
/// Connections to each server that is challenged.
const CHALLENGED: u32 = 25;

/// How long the daemon may take to start on an emulated processor, which shares the real one with other checks.
const EMULATED: Duration = Duration::from_secs(60);

fn main() -> Result<()> {
    at_xdp()?;
    at_tc()?;
    redirected()?;
    ["xdp", "tc"].iter().try_for_each(|hook| behind(hook))?;
    in_vlan()
}

/// Returns a lab whose server publishes and balances ports of a service on a host behind it.
fn translating_lab() -> Result<(Lab, Namespace, Echo)> {
    let lab = Lab::new()?;
    let behind = host_behind(&lab)?;
    let service = echo(&behind, "0.0.0.0:80", 1)?;
    publish(&lab)?;
    masquerade(&lab)?;
    balance(&lab)?;
    Ok((lab, behind, service))
}

/// Tests that handshakes with redirected ports, which complete elsewhere, are found, counted and no attack. The kernel of the usual lab has no
/// IPVS.
fn redirected() -> Result<()> {
    let (lab, _behind, _service) = translating_lab()?;
    let config = format!("interfaces = [\"{SERVER_INTERFACE}\"]\n[thresholds]\nmax_half_open = {MAX_HALF_OPEN}\n");
    let mut daemon = Setup::new(&lab)?.ready_within(EMULATED).config(&config).start()?;
    for port in [PUBLISHED, BALANCED] {
        until_found(&Client::new(&lab), &daemon, (SERVER_IPV4, port).into())?;
        for connection in 0..MORE_THAN_THE_THRESHOLD {
            Client::new(&lab)
                .fetch((SERVER_IPV4, port).into())
                .with_context(|| format!("port {port}: {connection}"))?;
        }
        let stats = daemon.stats_when("its handshakes are counted", |stats| {
            port_of(stats, port).is_some_and(|port| port.completed >= MORE_THAN_THE_THRESHOLD.into())
        })?;
        ensure!(stats.state == "calm" && stats.half_open.datapath == 0, "port {port}: {:?}", stats.half_open);
        ensure!(stats.totals.dropped == 0 && stats.measures.blocks == 0, "port {port}: {:?}", stats.totals);
        println!("redirected: port {port}: {:?}, {:?}", stats.state, stats.totals);
    }
    let status = daemon.end(Signal::SIGTERM)?;
    ensure!(status.success(), "{status}: {}", daemon.log()?);
    Ok(())
}

/// Tests a gateway, and redirected ports, whose SYNs are all challenged by reset.
fn behind(hook: &str) -> Result<()> {
    let (lab, _behind, _service) = translating_lab()?;
    if hook == "tc" {
        lab.receive_without_daemon()?;
    }
    let config = format!(
        "interfaces = [\"{SERVER_INTERFACE}\"]\nattach = \"{hook}\"\n[challenge]\nmode = \"always\"\n\
         method = \"reset\"\nproven_for = \"1s\"\n[[protect]]\nname = \"shop\"\nnetworks = [\"{BEHIND}\"]\nports = [80]\n"
    );
    let mut daemon = Setup::new(&lab)?.ready_within(EMULATED).config(&config).start()?;
    let resets = |stats: &Stats| stats.drops.get("returned_reset").copied().unwrap_or_default();
    let client = Client::new(&lab);
    for port in [PUBLISHED, BALANCED] {
        until_found(&Client::new(&lab), &daemon, (SERVER_IPV4, port).into())?;
    }
    for server in [(BEHIND, 80), (SERVER_IPV4, PUBLISHED), (SERVER_IPV4, BALANCED)].map(SocketAddr::from) {
        let before = resets(&daemon.stats()?);
        for connection in 0..CHALLENGED {
            client.fetch(server).with_context(|| format!("{hook}: {server}: {connection}"))?;
            thread::sleep(Duration::from_millis(50));
        }
        let stats = daemon.stats_when("its clients were challenged", |stats| resets(stats) > before)?;
        println!("behind: {hook}: {server}: {} resets", resets(&stats) - before);
        ensure!(stats.half_open.datapath == 0, "{hook}: {server}: {:?}", stats.half_open);
    }
    let stats = daemon.stats()?;
    let shop = &stats.protected[0];
    ensure!(shop.ports[0].completed == u64::from(CHALLENGED) && shop.return_path == "here", "{hook}: {shop:?}");
    let status = daemon.end(Signal::SIGTERM)?;
    ensure!(status.success(), "{status}: {}", daemon.log()?);
    Ok(())
}

/// Tests that clients in a VLAN are challenged, and that answers carry its tag. The kernel of the usual lab has no VLANs.
fn in_vlan() -> Result<()> {
    let lab = Lab::new()?;
    let server = Ipv4Addr::new(198, 18, 105, 1);
    for (namespace, interface, address) in
        [(&lab.server, SERVER_INTERFACE, server), (&lab.client, CLIENT_INTERFACE, Ipv4Addr::new(198, 18, 105, 2))]
    {
        // The tag is part of the frame, as it arrives from a wire.
        namespace.set_offload(interface, "txvlan", false)?;
        namespace.ip(&format!("link add link {interface} name tagged type vlan id 5"))?;
        namespace.ip(&format!("addr add {address}/24 dev tagged"))?;
        namespace.ip("link set tagged up")?;
    }
    let _service = echo(&lab.server, "0.0.0.0:80", 1)?;
    let config = |method: &str| {
        format!("interfaces = [\"{SERVER_INTERFACE}\"]\n[challenge]\nmode = \"always\"\nmethod = \"{method}\"\n")
    };
    let mut daemon = Setup::new(&lab)?.ready_within(EMULATED).config(&config("cookie")).start()?;
    for (method, first) in [("cookie", 10), ("reset", 20)] {
        daemon.set_config(&config(method))?;
        ensure!(daemon.tcpguard(&["reload"])?.status.success(), "{}", daemon.log()?);
        let begin = daemon.stats_when(method, |stats| challenge_of(stats, 80) == Some(method))?;
        let before = &begin.totals;
        for client in first..first + 10 {
            let address = Ipv4Addr::new(198, 18, 105, client);
            lab.client.ip(&format!("addr add {address}/24 dev tagged"))?;
            let client = Client::new(&lab).from(address.into());
            client.fetch((server, 80).into()).with_context(|| format!("{method}, in a VLAN: {address}"))?;
        }
        let all = |stats: &Stats| stats.totals.completed == before.completed + 10;
        let stats = daemon.stats_when("all have completed", all)?;
        let (totals, resets) = (&stats.totals, stats.drops["returned_reset"] - begin.drops["returned_reset"]);
        println!("VLAN: {method}: {resets} resets, {totals:?}");
        ensure!(totals.challenged >= before.challenged + 10 && totals.syn_forwarded == 0, "{method}: {totals:?}");
        // A client whose answer were lost would be let in by its retransmit, and send no reset.
        ensure!(resets >= if method == "reset" { 8 } else { 0 }, "{method}: {resets} resets: {totals:?}");
    }
    let status = daemon.end(Signal::SIGTERM)?;
    ensure!(status.success(), "{status}: {}", daemon.log()?);
    Ok(())
}

/// Tests the datapath at traffic control: with TCX, or a clsact qdisc if the kernel has no TCX.
fn at_tc() -> Result<()> {
    let lab = Lab::new()?;
    let _listener = listen(&lab.server, SERVER_IPV4.into(), 80)?;
    lab.receive_without_daemon()?;
    let config = format!("interfaces = [\"{SERVER_INTERFACE}\"]\nattach = \"tc\"");
    let mut daemon = Setup::new(&lab)?.ready_within(EMULATED).config(&config).start()?;
    println!("interfaces: {:?}", daemon.stats()?.interfaces);
    let mut flood = Flood::new(&lab, &FloodSpec::syn(Sources::InTurn("198.18.1.1".parse()?, 5), 80))?;
    flood.send(20)?;
    Client::new(&lab).connect((SERVER_IPV4, 80).into())?;
    daemon.stats_when("everything is counted", |stats| stats.totals.syn == 21)?;
    // After a crash the next daemon takes over, and detaches everything when it ends.
    daemon.restart(Signal::SIGKILL)?;
    flood.send(20)?;
    daemon.stats_when("the SYNs since the restart are counted", |stats| stats.totals.syn == 41)?;
    let status = daemon.end(Signal::SIGTERM)?;
    ensure!(status.success(), "{status}: {}", daemon.log()?);
    let left = loaded_programs().filter_map(Result::ok).filter(|program| program.name_as_str() == Some("tcpguard"));
    ensure!(left.count() == 0, "a program is still loaded");
    Ok(())
}

fn at_xdp() -> Result<()> {
    let lab = Lab::new()?;
    let _listeners = [listen(&lab.server, SERVER_IPV4.into(), 80)?, listen(&lab.server, SERVER_IPV6.into(), 80)?];
    let mut daemon = Setup::new(&lab)?.ready_within(EMULATED).start()?;
    let stats = daemon.stats()?;
    println!("interfaces: {:?}", stats.interfaces);
    println!("features: {:?}", stats.features);
    ensure!(stats.interfaces[0].xdp_mode == "native", "XDP is not native on veth");
    for feature in ["completions", "retries"] {
        ensure!(stats.features[feature].available, "{feature} are not available on this kernel");
    }
    let families: [(&str, IpAddr); 2] = [("198.18.1.1", SERVER_IPV4.into()), ("2001:db8:1::1", SERVER_IPV6.into())];
    for (first, server) in families {
        Flood::new(&lab, &FloodSpec::syn(Sources::InTurn(first.parse()?, 5), 80))?.send(20)?;
        for _ in 0..3 {
            Client::new(&lab).connect((server, 80).into())?;
        }
    }
    let stats = daemon.stats_when("everything is counted", |stats| {
        stats.totals.syn == 46
            && stats.totals.completed == 6
            && stats.half_open.datapath == 40
            && stats.half_open.kernel == 40
    })?;
    println!("totals: {:?}", stats.totals);
    daemon.stats_when("SYN-ACK retransmits are counted", |stats| {
        stats.half_open.kernel_retried == 40 && stats.totals.retried >= 40
    })?;
    let status = daemon.end(Signal::SIGTERM)?;
    ensure!(status.success(), "{status}: {}", daemon.log()?);
    Ok(())
}

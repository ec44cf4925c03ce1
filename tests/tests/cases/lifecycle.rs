//! Starting, stopping, crashes, and interfaces that disappear and return.

use std::time::Duration;

use anyhow::{Result, ensure};
use aya::programs::loaded_programs;
use lab::{
    Client, Flood, FloodSpec, Lab, Setup, Sources, eventually,
    network::{SERVER_INTERFACE, SERVER_IPV4},
    server::Nginx,
};
use nix::sys::signal::Signal;

/// Returns the ids of tcpguard's programs in the kernel.
fn our_programs() -> Vec<u32> {
    let names = ["tcpguard", "clock", "handshake_comp", "syn_ack_retried"];
    loaded_programs()
        .filter_map(Result::ok)
        .filter(|program| program.name_as_str().is_some_and(|name| names.iter().any(|ours| name.starts_with(ours))))
        .map(|program| program.id())
        .collect()
}

fn has_xdp(lab: &Lab) -> Result<bool> {
    let output = lab.server.command("ip").args(["-d", "link", "show", SERVER_INTERFACE]).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).contains("xdp"))
}

fn nothing_is_left(lab: &Lab, before: &[u32]) -> Result<()> {
    ensure!(!has_xdp(lab)?, "the interface still has a program");
    // The kernel frees programs shortly after their last reference is gone.
    eventually(
        "the kernel has none of the programs",
        || Ok(our_programs()),
        |now| now.iter().all(|id| before.contains(id)),
    )?;
    Ok(())
}

#[test]
fn sigterm_and_sigint_detach() -> Result<()> {
    let before = our_programs();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let lab = Lab::new()?;
        let mut daemon = Setup::new(&lab)?.start()?;
        ensure!(has_xdp(&lab)?, "the program is not attached");
        let status = daemon.end(signal)?;
        ensure!(status.success(), "{signal}: {status}: {}", daemon.log()?);
        ensure!(!daemon.socket().exists(), "the socket is still there");
        nothing_is_left(&lab, &before)?;
    }
    Ok(())
}

#[test]
fn after_kill_9_the_next_start_works_and_nothing_old_is_left() -> Result<()> {
    let before = our_programs();
    let lab = Lab::new()?;
    let _nginx = Nginx::start(&lab, &[80])?;
    let setup = Setup::new(&lab)?;
    let daemon = setup.start()?;
    let (_, socket) = daemon.end_for_restart(Signal::SIGKILL)?;
    ensure!(has_xdp(&lab)?, "the program is not attached any more");
    // The server stays reachable.
    Client::new(&lab).fetch((SERVER_IPV4, 80).into())?;

    // The next daemon uses the same socket path, where the killed one left a stale socket.
    std::fs::create_dir_all(socket.parent().expect("a directory"))?;
    drop(std::os::unix::net::UnixListener::bind(&socket)?);
    ensure!(socket.exists(), "there is no stale socket");
    let config = format!("interfaces = [\"{SERVER_INTERFACE}\"]\n[listen]\nsocket = \"{}\"\n", socket.display());
    let second = Setup::new(&lab)?.whole_config(&config).listening_on(&socket).start()?;
    Client::new(&lab).fetch((SERVER_IPV4, 80).into())?;
    second.stats_when("the new daemon continues the count", |stats| stats.totals.syn == 2)?;
    second.end_for_restart(Signal::SIGTERM)?;
    std::fs::remove_dir_all(socket.parent().expect("a directory")).ok();
    nothing_is_left(&lab, &before)
}

#[test]
fn an_interface_that_goes_is_reported_and_guarded_again_when_it_returns() -> Result<()> {
    let lab = Lab::new()?;
    // A second interface, which must stay guarded.
    lab.server.ip("link add other type veth peer name other-peer")?;
    lab.server.ip("link set other up")?;
    let setup = Setup::new(&lab)?.config(&format!("interfaces = [\"{SERVER_INTERFACE}\", \"other\"]"));
    let daemon = setup.start()?;
    lab.unplug()?;
    let stats =
        daemon.stats_when("the interface is shown as detached", |stats| stats.interfaces[0].xdp_mode == "detached")?;
    ensure!(stats.interfaces[0].reason.as_deref() == Some("the interface is gone"), "{:?}", stats.interfaces);
    ensure!(stats.interfaces[1].xdp_mode == "native", "{:?}", stats.interfaces);
    ensure!(daemon.log()?.contains("interface lab-server is gone"), "{}", daemon.log()?);
    ensure!(daemon.get("/readyz")?.0 == 200, "the daemon is not ready although the other interface is guarded");

    lab.plug_in()?;
    daemon.stats_when("the interface is guarded again", |stats| stats.interfaces[0].xdp_mode == "native")?;
    Flood::new(&lab, &FloodSpec::syn(Sources::InTurn("198.18.1.1".parse()?, 1), 80))?.send(7)?;
    daemon.stats_when("the count continues", |stats| stats.totals.syn == 7)?;
    Ok(())
}

#[test]
fn readiness_ends_with_the_last_interface() -> Result<()> {
    let lab = Lab::new()?;
    let daemon = Setup::new(&lab)?.start()?;
    lab.unplug()?;
    eventually("the daemon is not ready", || daemon.get("/readyz"), |(status, _)| *status == 503)?;
    ensure!(daemon.get("/healthz")?.0 == 200, "the daemon is not alive");
    Ok(())
}

#[test]
fn generic_mode_is_a_fallback_with_its_reason() -> Result<()> {
    let lab = Lab::new()?;
    // A bridge has no native XDP.
    lab.server.ip("link add br0 type bridge")?;
    lab.server.ip("link set br0 up")?;
    let daemon = Setup::new(&lab)?.config("interfaces = [\"br0\"]").start()?;
    let stats = daemon.stats()?;
    ensure!(stats.interfaces[0].xdp_mode == "generic", "{:?}", stats.interfaces);
    ensure!(stats.interfaces[0].reason.is_some(), "{:?}", stats.interfaces);
    ensure!(daemon.log()?.contains("no native XDP"), "{}", daemon.log()?);
    Ok(())
}

#[test]
fn generic_mode_counts_the_same() -> Result<()> {
    let lab = Lab::new()?;
    let _nginx = Nginx::start(&lab, &[80])?;
    let config = format!("interfaces = [\"{SERVER_INTERFACE}\"]\nxdp_mode = \"generic\"");
    let daemon = Setup::new(&lab)?.config(&config).start()?;
    for _ in 0..5 {
        Client::new(&lab).fetch((SERVER_IPV4, 80).into())?;
    }
    daemon.stats_when("five connections are counted", |stats| {
        stats.totals.syn == 5 && stats.totals.completed == 5 && stats.half_open.datapath == 0
    })?;
    Ok(())
}

#[test]
fn the_default_route_tells_which_interface_to_guard() -> Result<()> {
    let lab = Lab::new()?;
    lab.server.ip("route add default via 198.18.0.2")?;
    let daemon = Setup::new(&lab)?.config("").start()?;
    let stats = daemon.stats()?;
    ensure!(stats.interfaces[0].name == SERVER_INTERFACE, "{:?}", stats.interfaces);
    Ok(())
}

#[test]
fn what_the_kernel_lacks_is_left_out_and_reported() -> Result<()> {
    let lab = Lab::new()?;
    let _nginx = Nginx::start(&lab, &[80])?;
    let daemon = Setup::new(&lab)?.hiding("/sys/kernel/btf").start()?;
    for _ in 0..3 {
        Client::new(&lab).fetch((SERVER_IPV4, 80).into())?;
    }
    let stats = daemon.stats_when("SYNs are counted nevertheless", |stats| stats.totals.syn == 3)?;
    ensure!(stats.totals.completed == 0, "{:?}", stats.totals);
    for feature in ["completions", "retries"] {
        let feature = &stats.features[feature];
        ensure!(!feature.available, "{feature:?}");
        let reason = feature.reason.as_deref().unwrap_or_default();
        ensure!(reason.contains("CONFIG_DEBUG_INFO_BTF"), "{feature:?}");
    }
    ensure!(daemon.log()?.contains("completed handshakes are not seen on this kernel"), "{}", daemon.log()?);
    Ok(())
}

#[test]
fn the_datapath_can_log_what_it_does() -> Result<()> {
    let lab = Lab::new()?;
    let daemon = Setup::new(&lab)?.environment("TCPGUARD_LOG", "info,tcpguard::accounts=debug").start()?;
    Flood::new(&lab, &FloodSpec::syn(Sources::InTurn("198.18.1.1".parse()?, 1), 80))?.send(3)?;
    let log = eventually("the datapath's message is logged", || daemon.log(), |log| log.contains("SYN to port 80"))?;
    ensure!(log.matches("SYN to port 80").count() == 1, "expected one message for one new source: {log}");
    Ok(())
}

#[test]
fn it_is_up_within_seconds() -> Result<()> {
    let lab = Lab::new()?;
    let start = std::time::Instant::now();
    let _daemon = Setup::new(&lab)?.start()?;
    ensure!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    Ok(())
}
